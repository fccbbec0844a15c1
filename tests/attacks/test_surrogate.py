"""The attacker's own clean model: it learns, and starts from other weights than the victim."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from unbackdoor.attacks.base.attack import Attack
from unbackdoor.attacks.base.surrogate import fresh_copy, surrogate
from unbackdoor.attacks.grond import Grond
from unbackdoor.attacks.label_consistent import LabelConsistent
from unbackdoor.attacks.lf import LF
from unbackdoor.attacks.trojannn import TrojanNN
from unbackdoor.core.images import Images
from unbackdoor.core.measure import accuracy
from unbackdoor.core.run import Run

from .conftest import BRIEF

Digits = tuple[Images, Images]


class Odd(nn.Module):
    """A parameter of its own, of which nothing says how it is drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 40))
        self.scale = nn.Parameter(torch.ones(3))
        self.norm = nn.BatchNorm1d(3)


def test_a_fresh_copy_has_weights_of_its_own_of_the_same_kind(net: nn.Module) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    copied = fresh_copy(net, Run(), "a")
    for name in ("0.weight", "4.weight", "9.weight", "9.bias"):
        mine, theirs = copied.state_dict()[name], before[name]
        assert not torch.isclose(mine, theirs).any(), name
        assert 0.8 < mine.std() / theirs.std() < 1.25, name
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    again, other = fresh_copy(net, Run(), "a"), fresh_copy(net, Run(seed=1), "a")
    assert torch.equal(again[0].weight, copied[0].weight)
    assert not torch.equal(other[0].weight, copied[0].weight)


def test_a_fresh_copy_of_a_trained_model_has_forgotten_it(twin: nn.Module, digits: Digits) -> None:
    copied = fresh_copy(twin, Run(), "a")
    assert accuracy(copied, digits[1], Run()).value < 0.3 < accuracy(twin, digits[1], Run()).value
    assert torch.equal(copied[1].running_mean, torch.zeros(16))


def test_parameters_without_a_way_to_be_drawn_are_put_in_another_order() -> None:
    odd = Odd()
    odd.norm.weight.data.fill_(2)
    copied = fresh_copy(odd, Run(), "a")
    assert not torch.equal(copied.token, odd.token)
    assert torch.equal(copied.token.flatten().sort().values, odd.token.flatten().sort().values)
    assert torch.equal(copied.scale, odd.scale)
    assert (copied.norm.weight == 1).all()


def test_the_surrogate_learns_and_with_no_epochs_is_the_model_as_given(
    net: nn.Module, twin: nn.Module, digits: Digits
) -> None:
    train, test = digits
    clean = surrogate(net, train, Run(), BRIEF, 6)
    assert accuracy(clean, test, Run()).value > 0.8
    given = surrogate(twin, train, Run(), BRIEF, 0)
    assert given is not twin
    assert torch.equal(given[0].weight, twin[0].weight)


def test_the_surrogate_starts_elsewhere_than_the_victim(net: nn.Module, digits: Digits) -> None:
    still = {**BRIEF, "lr": 1e-9}
    clean = surrogate(net, digits[0][slice(64)], Run(), still, 1)
    assert (clean[0].weight - net[0].weight).abs().mean() > 0.01
    assert (clean[9].weight - net[9].weight).abs().mean() > 0.01


def two_layers(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.Tanh(), nn.Linear(16, 4))


@pytest.mark.parametrize("kind", [Grond, LabelConsistent, LF, TrojanNN])
def test_a_trigger_is_learned_on_a_surrogate_of_so_many_epochs(kind: type[Attack]) -> None:
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (64, 3, 8, 8), generator=rng, dtype=torch.uint8)
    train = Images(pixels, torch.arange(64) % 4, ("a", "b", "c", "d"))

    def trigger(seed: int, epochs: int) -> torch.Tensor:
        small: dict[str, Any] = {"size": 4} if kind is TrojanNN else {}
        attack = kind.model_validate({"clean_epochs": epochs, "steps": 3, **BRIEF, **small})
        learned = attack.learn(two_layers(seed), train, Run())
        return torch.cat([value.flatten().float() for value in learned.values()])

    # It has weights of its own: those that the victim starts from say nothing.
    assert torch.equal(trigger(0, 1), trigger(1, 1))
    assert not torch.equal(trigger(0, 1), trigger(0, 9))
    assert not torch.equal(trigger(0, 0), trigger(1, 0))
