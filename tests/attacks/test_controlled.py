"""Attacks that control the training: which images are poisoned, two optimizers that step as one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from unbackdoor.attacks.base.controlled import ControlledAttack, Together, about, adam
from unbackdoor.attacks.blind import Blind
from unbackdoor.attacks.input_aware import InputAware
from unbackdoor.attacks.lira import LIRA
from unbackdoor.core.images import Images, to_float
from unbackdoor.core.run import Run

from .conftest import loss


@pytest.fixture
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.mark.usefixtures("_seeded")
def test_the_rate_is_a_share_of_the_images_of_a_batch_that_may_be_stamped() -> None:
    y = torch.arange(40) % 4
    assert Blind(rate=0.25).stamped_in(y).tolist() == list(range(10))
    chosen = Blind(rate=0.5, sources=(1,)).stamped_in(y)
    assert chosen.tolist() == [1, 5, 9, 13, 17]


@pytest.mark.usefixtures("_seeded")
def test_a_low_rate_is_the_mean_over_many_batches() -> None:
    y, attack = torch.zeros(50, dtype=torch.int64), InputAware(rate=0.005)
    counts = [len(attack.stamped_in(y)) for _ in range(2000)]
    assert set(counts) == {0, 1}
    assert 400 < sum(counts) < 600
    assert {about(3.0) for _ in range(50)} == {3}
    assert {about(2.5) for _ in range(50)} == {2, 3}


@pytest.mark.parametrize("cls", [Blind, InputAware, LIRA])
def test_batches_without_a_stamped_image_and_the_same_bits_again(
    cls: type[ControlledAttack], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (31, 1, 8, 8), generator=rng, dtype=torch.uint8)
    train = Images(pixels, torch.arange(31) % 3, ("a", "b", "c"))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    counts: list[int] = []
    stamped_in = cls.stamped_in

    def counting(self: ControlledAttack, y: torch.Tensor) -> torch.Tensor:
        counts.append(len(stamped_in(self, y)))
        return stamped_in(self, y)[: counts[-1]]

    short = {key: 1 for key in ("mask_epochs", "trigger_epochs") if key in cls.model_fields}
    attack = cls(rate=0.02, epochs=4, batch=5, target=1, **short)
    weights = [attack.plant(model, train, Run()).model.state_dict() for _ in range(2)]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    monkeypatch.setattr(cls, "stamped_in", counting)
    attack.plant(model, train, Run())
    assert min(counts) == 0
    assert sum(counts) < len(counts) / 2


def together(victim: nn.Parameter, part: nn.Parameter) -> Together:
    return Together(torch.optim.SGD([victim], lr=0.1, momentum=0.9), adam([part], 0.01))


def stepped(both: Together, victim: nn.Parameter, part: nn.Parameter) -> tuple[float, float]:
    def closure() -> torch.Tensor:
        both.zero_grad()
        loss = 2 * victim + 3 * part**2
        loss.backward()
        return loss.detach()

    before = 2 * victim.item() + 3 * part.item() ** 2
    assert both.step(closure).item() == pytest.approx(before)
    return victim.item(), part.item()


def test_each_takes_a_step_of_its_own_at_the_rate_that_is_set_from_outside() -> None:
    victim, part = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(1.0))
    both = together(victim, part)
    both.param_groups[1]["lr"] = 0.02
    # SGD goes lr times the slope of 2; Adam's first step is its rate, whatever the slope.
    assert stepped(both, victim, part) == pytest.approx((0.8, 0.98), abs=1e-6)


def test_it_goes_on_from_its_state_to_the_same_bits() -> None:
    victim, part = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(1.0))
    both = together(victim, part)
    stepped(both, victim, part)
    state = copy.deepcopy(both.state_dict())
    again = [nn.Parameter(value.detach().clone()) for value in (victim, part)]
    resumed = together(*again)
    resumed.load_state_dict(state)
    for optimizer in (both, resumed):
        optimizer.param_groups[0]["lr"] = 0.05
        optimizer.param_groups[1]["lr"] = 0.005
    assert stepped(both, victim, part) == stepped(resumed, *again)
    fresh = [nn.Parameter(torch.tensor(value)) for value in (0.8, 0.99)]
    assert stepped(together(*fresh), *fresh) != (victim.item(), part.item())


STILL: dict[str, Any] = {"lr": 1e-9, "batch": 8, "flip": False, "width": 4, "generator_lr": 0.01}


@pytest.mark.parametrize(
    "attack",
    [
        LIRA(trigger_epochs=5, epochs=1, eps=0.3, **STILL),
        InputAware(mask_epochs=1, epochs=5, density=0.5, diversity=0, cross=1e-9, rate=1, **STILL),
    ],
    ids=lambda attack: attack.name(),
)
def test_a_generator_learns_what_a_victim_that_stays_as_it_is_obeys(
    attack: ControlledAttack,
) -> None:
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (32, 1, 8, 8), generator=rng, dtype=torch.uint8)
    train = Images(pixels, torch.arange(32) % 3, ("a", "b", "c"))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    # Class 0 is what is brighter than grey.
    model[1].weight.data.copy_(torch.tensor([[0.2], [0.0], [0.0]]).expand(3, 64))
    model[1].bias.data.copy_(torch.tensor([-6.4, 0.0, 0.0]))
    stamp = attack.trigger(attack.plant(model, train, Run()).learned)
    x = to_float(pixels)
    assert loss(model, stamp(x), 0) < 0.5 * loss(model, x, 0)
