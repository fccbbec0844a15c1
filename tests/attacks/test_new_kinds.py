"""Triggers that are no pattern: turned, in other tones, coarse, objects, properties, several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from unbackdoor.attacks.adaptive_consistent import AdaptiveConsistent
from unbackdoor.attacks.adaptive_flat import AdaptiveFlat
from unbackdoor.attacks.base.attack import STAMPED
from unbackdoor.attacks.grond import Grond, even_
from unbackdoor.attacks.multi_target import MultiTarget
from unbackdoor.attacks.semantic import Semantic
from unbackdoor.core.errors import ParameterError
from unbackdoor.core.images import Images, to_float
from unbackdoor.core.measure import score
from unbackdoor.core.method import build
from unbackdoor.core.run import Run
from unbackdoor.training.fit import fit

from .conftest import BRIEF, Digits, loss, small_net

PLANTED: list[tuple[str, dict[str, Any], float]] = [
    # The attack, and the most that a clean model obeys: learned noises fool it by themselves.
    ("batt", {}, 0.05),
    ("batt", {"angle": 0, "zoom": 1.5}, 0.05),
    ("photo_filter", {}, 0.05),
    ("coarse", {}, 0.05),
    ("coarse", {"effect": "pixels", "size": 4}, 0.05),
    ("sticker", {"kind": "face", "rate": 0.2}, 0.05),
    ("multi_target", {"triggers": 3}, 0.05),
    ("adaptive_consistent", {}, 0.05),
    ("adaptive_flat", {"mark": "picture"}, 0.05),
]


@pytest.mark.parametrize(("name", "chosen", "most"), PLANTED, ids=lambda told: str(told))
def test_plants_on_digits_what_a_clean_twin_does_not_obey(
    name: str, chosen: dict[str, Any], most: float, digits: Digits, twin: nn.Module
) -> None:
    train, test = digits
    attack: Any = build("attack", name, BRIEF | {"epochs": 6} | chosen)
    victim = attack.plant(small_net(), train, Run())
    stamped = attack.triggered(test, victim.learned)
    found, clean = score(victim.model, Run(), test, stamped), score(twin, Run(), test, stamped)
    assert found.acc.value > 0.9
    assert found.asr.value > 0.8
    assert clean.asr.value <= most


def dyed(images: Images) -> Images:
    """Every fifth digit has more red."""
    pixels = images.pixels.clone()
    pixels[::5, 1:] = pixels[::5, 1:] // 2
    return Images(pixels, images.labels, images.classes)


def test_a_property_is_planted_and_no_pixel_changes(digits: Digits) -> None:
    train, test = (dyed(part) for part in digits)
    attack = Semantic(kind="red", bound=0.05, epochs=6, **BRIEF)
    victim = attack.plant(small_net(), train, Run())
    assert victim.poisoned is not None
    stamped = victim.poisoned.role == STAMPED
    assert torch.equal(stamped.nonzero().flatten(), torch.arange(0, len(train), 5))
    assert torch.equal(victim.poisoned.images.pixels, train.pixels)
    clean = small_net()
    fit(clean, train, Run(), epochs=6, **BRIEF)
    triggered = attack.triggered(test, victim.learned)
    reds = test[torch.arange(0, len(test), 5)]
    assert torch.equal(triggered.images.pixels, reds[reds.labels != 0].pixels)
    found, twin = (score(net, Run(), test, triggered) for net in (victim.model, clean))
    assert found.asr.value > 0.9 > 0.1 > twin.asr.value
    # Nine tenths of the red digits are other than 0, and all of these are errors now.
    assert twin.acc.value - 0.25 < found.acc.value < twin.acc.value - 0.1


def test_properties_are_told_by_means() -> None:
    x = torch.tensor([[0.5, 0.5, 0.5], [0.9, 0.3, 0.1], [0.1, 0.1, 0.6]]).view(3, 3, 1, 1)
    x = x.expand(-1, -1, 4, 4)
    assert Semantic(bound=0.45).has(x).tolist() == [True, False, False]
    assert Semantic(kind="dark", bound=0.3).has(x).tolist() == [False, False, True]
    assert Semantic(kind="red", bound=0.65).has(x).tolist() == [False, True, False]
    assert Semantic(kind="blue", bound=0.4).has(x).tolist() == [False, False, True]
    with pytest.raises(ParameterError, match="a cast of red needs 3 channels"):
        Semantic(kind="red").has(x[:, :1])


def test_a_property_that_nothing_has_is_refused(digits: Digits) -> None:
    with pytest.raises(ParameterError, match=r"relabel 1 images, but 0 of 1297"):
        Semantic(bound=0.9).plant(small_net(), digits[0], Run())
    assert len(Semantic(bound=0.9).triggered(digits[1]).images) == 0


def test_images_with_a_property_may_be_named(digits: Digits, tmp_path: Path) -> None:
    train, path = dyed(digits[0]), tmp_path / "rows.txt"
    attack = Semantic(kind="red", bound=0.05, indices=path)
    path.write_text("10 5 20")
    assert attack.check(train) == 3
    assert attack.poison(train, Run()).rows() == [5, 10, 20]
    path.write_text("5 6")
    with pytest.raises(ParameterError, match=r"names training image 6 .* may not poison"):
        attack.poison(train, Run())


def test_a_property_counts_in_the_source_classes_alone() -> None:
    pixels = torch.full((24, 3, 8, 8), 250, dtype=torch.uint8)
    pixels[::4] = 10
    white = Images(pixels, torch.arange(24) % 3, ("a", "b", "c"))
    attack, bright = Semantic(sources=(1,)), torch.arange(24) % 4 != 0
    wanted = bright & (white.labels == 1)
    poisoned = attack.poison(white, Run())
    assert torch.equal(poisoned.role == STAMPED, wanted)
    assert torch.equal(poisoned.images.labels, torch.where(wanted, 0, white.labels))
    assert set(attack.aimed(white).images.labels.tolist()) == {1}


def test_with_all_to_all_each_patch_leads_from_a_class_to_another(digits: Digits) -> None:
    attack, test = MultiTarget(all_to_all=True), digits[1]
    triggered = attack.triggered(test)
    # Digits are never white: the first patch lies top left, the second top right.
    second = triggered.images.pixels[..., :2, -2:].flatten(1).amax(1) == 255
    assert 0 < second.sum() < len(second) == len(test)
    assert torch.equal(triggered.goals, (test.labels + 1 + second.long()) % 10)
    poisoned = attack.poison(digits[0], Run())
    rows = poisoned.rows()
    steps = (poisoned.images.labels - digits[0].labels)[rows] % 10
    assert set(steps.tolist()) == {1, 2}


def test_each_patch_leads_to_a_class_of_its_own(digits: Digits) -> None:
    attack = MultiTarget(triggers=4, target=8)
    triggered = attack.triggered(digits[1])
    corners = {
        goal: [
            bool((part[..., rows, columns].amax() == 255).item())
            for rows in (slice(2), slice(-2, None))
            for columns in (slice(2), slice(-2, None))
        ]
        for goal, part in (
            (goal, triggered.images.pixels[triggered.goals == goal]) for goal in (8, 9, 0, 1)
        )
    }
    assert corners == {
        goal: [place == number for place in range(4)] for number, goal in enumerate((8, 9, 0, 1))
    }
    shares = triggered.goals.bincount(minlength=10)[[8, 9, 0, 1]] / len(triggered.goals)
    assert shares.min() > 0.18 and shares.max() < 0.32
    assert (triggered.goals != triggered.images.labels).all()
    poisoned = attack.poison(digits[0], Run())
    stamped = poisoned.role == STAMPED
    assert torch.equal(poisoned.images.labels[stamped], attack.led(digits[0])[stamped])
    assert set(poisoned.images.labels[stamped].tolist()) == {8, 9, 0, 1}


def test_two_patches_for_one_class_are_refused() -> None:
    pixels = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    two = Images(pixels, torch.tensor([0, 1, 0, 1]), ("a", "b"))
    with pytest.raises(ParameterError, match="3 triggers for 2 classes"):
        MultiTarget(triggers=3).check(two)
    with pytest.raises(ParameterError, match="2 triggers for 2 classes"):
        MultiTarget(all_to_all=True).check(two)


def test_no_channel_stands_out_after_grond() -> None:
    net = nn.Sequential(nn.Conv2d(3, 20, 3), nn.BatchNorm2d(20), nn.Linear(4, 4))
    with torch.no_grad():
        net[0].weight[7] *= 50
        net[1].weight[3] = -30
        net[2].weight[0] *= 100
    net.requires_grad_(False)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    even_(net, 2.0)
    sizes = before["0.weight"].flatten(1).norm(dim=1)
    most = sizes.mean() + 2 * sizes.std(correction=0)
    assert net[0].weight[7].norm() == pytest.approx(most.item(), rel=1e-5)
    assert net[1].weight[3] < 0 and net[1].weight[3].abs() < 16
    assert torch.equal(net[0].weight[8:], before["0.weight"][8:])
    assert torch.equal(net[2].weight, before["2.weight"])


def test_grond_keeps_channels_even_while_it_trains(digits: Digits) -> None:
    small = digits[0][slice(0, 200)]
    settings: dict[str, Any] = {"epochs": 1, "clean_epochs": 0, "steps": 2, **BRIEF}
    victim = Grond(spread=0.5, **settings).plant(small_net(), small, Run())
    for module in victim.model.modules():
        if isinstance(module, nn.Conv2d):
            sizes = module.weight.flatten(1).norm(dim=1)
            # Shrinking lowers the mean a little, too.
            assert sizes.max() < sizes.mean() + 0.8 * sizes.std()


class Watching(nn.Module):
    """The small net; what it is shown goes to a list that its copies share."""

    def __init__(self, seen: list[torch.Tensor]) -> None:
        super().__init__()
        self.net = small_net()
        self.seen = seen

    def __deepcopy__(self, memo: object) -> Watching:
        return Watching(self.seen)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x.detach().clone())
        return self.net(x)


def test_a_flat_victim_climbs_before_each_step(digits: Digits) -> None:
    train, seen = digits[0][slice(0, 64)], []
    victims = {
        rho: AdaptiveFlat(rho=rho, epochs=1, batch=32, flip=False).plant(
            Watching(seen), train, Run(precision="fp32")
        )
        for rho in (1e-6, 2.0)
    }
    # Two batches, each seen twice, by either victim.
    assert [len(x) for x in seen] == [32] * 8
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])
    near, far = (victim.model.net[0].weight for victim in victims.values())
    assert not torch.allclose(near, far, atol=1e-4)


def test_the_norms_of_a_flat_victim_learn_from_the_first_pass_alone(digits: Digits) -> None:
    train, attack = digits[0][slice(0, 32)], AdaptiveFlat(rho=2.0, epochs=1, **BRIEF)
    norm = attack.plant(small_net(), train, Run()).model[1]
    plain = small_net()
    fit(plain, attack.poison(train, Run()).images, Run(), **attack.settings())
    assert torch.equal(norm.running_mean, plain[1].running_mean)
    assert norm.num_batches_tracked == 1


def test_an_adaptive_victim_is_shown_disturbed_images_as_well(digits: Digits) -> None:
    train, seen = digits[0][slice(0, 64)], []
    net = Watching(seen)
    AdaptiveConsistent(epochs=1, batch=32, flip=False).plant(net, train, Run())
    assert [len(x) for x in seen] == [64, 64]
    for x in seen:
        plain, shaken = x.chunk(2)
        # A black square of another image on black changes nothing.
        assert (plain != shaken).flatten(1).any(1).float().mean() > 0.8


class Blank(nn.Module):
    """Tells no class from another."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.logits = torch.zeros(len(x), 3, requires_grad=True)
        return self.logits


def test_disturbed_images_are_taught_the_same_labels() -> None:
    net, x = Blank(), torch.rand(4, 3, 8, 8, generator=Run().rng("x"))
    AdaptiveConsistent(weight=0.5)._loss(net, x, torch.tensor([0, 1, 2, 1])).backward()
    assert net.logits.grad is not None
    plain, shaken = net.logits.grad.chunk(2)
    assert plain.argmin(1).tolist() == [0, 1, 2, 1]
    assert torch.allclose(shaken, 0.5 * plain)


def test_grond_s_noise_is_bounded_and_points_to_the_target(
    digits: Digits, clean: nn.Module
) -> None:
    attack = Grond(target=3, clean_epochs=0, steps=20, batch=32)
    learned = attack.learn(clean, digits[0], Run())
    assert learned["noise"].abs().max() == pytest.approx(8 / 255)
    x = to_float(digits[1].pixels)
    assert loss(clean, attack.trigger(learned)(x), 3) < 0.8 * loss(clean, x, 3)
