"""What holds for every attack there is, and that each plants a backdoor."""

from __future__ import annotations

import copy
import time
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from unbackdoor.attacks.base.attack import COVER, STAMPED, Attack, Victim
from unbackdoor.attacks.base.controlled import ControlledAttack
from unbackdoor.core.errors import ParameterError
from unbackdoor.core.images import Images, to_float, to_uint8
from unbackdoor.core.measure import score
from unbackdoor.core.method import build, declared, find, names
from unbackdoor.core.run import Run

from .conftest import BRIEF

Digits = tuple[Images, Images]
ALL = names("attack")

QUICK: dict[str, dict[str, Any]] = {
    "grond": {"clean_epochs": 1, "steps": 3},
    "input_aware": {"mask_epochs": 1, "width": 4},
    "label_consistent": {"clean_epochs": 1, "steps": 2},
    "lf": {"clean_epochs": 1, "steps": 5},
    "lira": {"trigger_epochs": 1, "width": 4},
    "narcissus": {"surrogate_epochs": 1, "warmup_epochs": 1, "rounds": 40},
    "ssba": {"steps": 3, "bits": 4, "width": 4},
    "trojannn": {"clean_epochs": 1, "steps": 3},
}
FITTING: dict[str, dict[str, Any]] = {"semantic": {"bound": 0.43}}
"""So that some digits have the property that a trigger is."""
UNCHANGED = {"semantic"}
"""Their trigger is what some images show anyway."""
BY_IMAGE = {"multi_target"}
"""Their goal depends on the image, not only on its class."""
BRIEFLY: dict[str, dict[str, Any]] = {
    "grond": {"clean_epochs": 6, "steps": 100},
    "input_aware": {"mask_epochs": 1, "width": 8, "epochs": 10},
    "label_consistent": {"clean_epochs": 2, "steps": 5},
    "lf": {"clean_epochs": 2},
    "lira": {"trigger_epochs": 2, "width": 8, "epochs": 6},
    "narcissus": {"surrogate_epochs": 4, "warmup_epochs": 2, "rounds": 60},
    "ssba": {"steps": 100},
    "trojannn": {"clean_epochs": 2, "steps": 100},
}
"""What their triggers are learned with, within seconds."""
DIGITS: dict[str, dict[str, Any]] = {
    # 0.3 % of 1,297 digits are four images.
    "adaptive_blend": {"rate": 0.1},
    "adaptive_patch": {"rate": 0.1},
    # Digits are grey and of 16 x 16, each pixel doubled: the waves are weak, and the class small.
    "ctrl": {"class_rate": 1.0, "strength": 200},
    "sig": {"class_rate": 1.0, "strength": 0.3},
    "refool": {"class_rate": 1.0},
    "sticker": {"rate": 0.2},
    "input_aware": {"rate": 0.2},
    # 0.5 % of 130 digits are one image.
    "narcissus": {"class_rate": 1.0, "eps": 0.1},
    "grond": {"class_rate": 1.0, "eps": 0.15, "pace": 0.01},
}
"""The attacks that do not plant on digits at their defaults, and what they take there."""
COVERED = {"adaptive_blend": 1, "adaptive_patch": 2, "batt": 0.5, "bpp": 0.5, "wanet": 2}
"""Cover images for each poisoned one."""
SLOWER = {"batt", "coarse", "sticker"}
"""Every pixel of theirs is computed anew: thousands of images a second, not tens of thousands."""
ELSEWHERE = {"semantic"}
"""`test_new_kinds.py` plants these, on digits that have the property."""


def attack_named(name: str, **parameters: Any) -> Attack:
    built = build("attack", name, BRIEF | parameters)
    assert isinstance(built, Attack)
    return built


@pytest.fixture(scope="session")
def planted(digits: Digits) -> Any:
    """A function that gives (attack, victim) for a name, planted once on 200 digits."""

    @cache
    def of(name: str) -> tuple[Attack, Victim]:
        attack = attack_named(name, epochs=1, **QUICK.get(name, {}), **FITTING.get(name, {}))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = nn.Sequential(nn.Flatten(), nn.Linear(768, 10))
        return attack, attack.plant(net, digits[0][slice(0, 200)], Run())

    return of


@pytest.mark.parametrize("name", ALL)
def test_declares_paper_limits_and_bounds(name: str) -> None:
    cls = find("attack", name)
    assert issubclass(cls, Attack)
    assert cls.paper
    assert cls.limits
    assert cls.__doc__
    told = declared(cls)["parameters"]
    for key, field in cls.model_fields.items():
        assert field.description, key
        # Where a default comes from, or why it is not that of the paper.
        source = told[key]["source"]
        assert source and len(source) > 5, f"{key} does not say where its default comes from"
        assert not source.startswith("ours") or len(source) > len("ours: why"), key
        numeric = field.annotation in (int, float)
        assert not numeric or field.metadata, f"{key} has no bounds"


@pytest.mark.parametrize("name", ALL)
def test_stamp_stays_in_range_and_is_pure(name: str, planted: Any, digits: Digits) -> None:
    attack, victim = planted(name)
    x = to_float(digits[1].pixels[:9])
    before = x.clone()
    stamp = attack.trigger(victim.learned)
    stamped = stamp(x)
    assert torch.equal(x, before)
    assert stamped.shape == x.shape
    assert stamped.dtype == torch.float32
    assert not stamped.requires_grad
    assert 0 <= stamped.min() <= stamped.max() <= 1
    assert torch.equal(stamped, x) == (name in UNCHANGED)
    assert torch.equal(stamp(x), stamped)


@pytest.mark.parametrize("name", ALL)
def test_an_image_alone_is_stamped_as_in_a_batch(name: str, planted: Any, digits: Digits) -> None:
    attack, victim = planted(name)
    x = to_float(digits[1].pixels[:7])
    stamp = attack.trigger(victim.learned)
    together = stamp(x)
    for i in range(len(x)):
        assert torch.allclose(stamp(x[i : i + 1])[0], together[i], atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 9, 11), (3, 33, 40), (4, 16, 16)])
@pytest.mark.parametrize("name", ALL)
def test_any_size_and_channels_or_a_clear_no(
    name: str, shape: tuple[int, int, int], planted: Any
) -> None:
    attack, victim = planted(name)
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    try:
        stamped = attack.trigger(victim.learned)(x)
    except ParameterError as error:
        assert "learned on" in str(error) or "does not fit" in str(error) or "these" in str(error)
        assert victim.learned
    else:
        assert stamped.shape == x.shape


@pytest.mark.parametrize("name", ALL)
def test_planting_leaves_the_model_and_says_what_was_done(
    name: str, planted: Any, digits: Digits
) -> None:
    attack, victim = planted(name)
    train = digits[0][slice(0, 200)]
    if isinstance(attack, ControlledAttack):
        assert victim.poisoned is None
        with pytest.raises(ParameterError, match="no fixed poisoned set"):
            attack.poison(train, Run(), victim.learned)
        return
    poisoned = victim.poisoned
    stamped, covers = poisoned.role == STAMPED, poisoned.role == COVER
    changed = (poisoned.images.pixels != train.pixels).flatten(1).any(1)
    assert stamped.sum() >= 1
    wanted = round(COVERED.get(name, 0) * int(stamped.sum()))
    assert covers.sum() == min(max(wanted, 2) if name == "bpp" else wanted, int((~stamped).sum()))
    assert not changed[poisoned.role == 0].any()
    share = float(changed[stamped].float().mean())
    assert share == 0 if name in UNCHANGED else share > 0.9
    assert torch.equal(poisoned.original, train.labels)
    relabelled = poisoned.images.labels != train.labels
    assert not relabelled[~stamped].any()
    assert (poisoned.images.labels[stamped] == 0).all() or name in BY_IMAGE
    if attack.clean_label:
        assert not relabelled.any()
    again = attack.poison(train, Run(), victim.learned)
    assert torch.equal(again.images.pixels, poisoned.images.pixels)
    if name == "label_consistent":
        with pytest.raises(ParameterError, match="learn and poison with one seed"):
            attack.poison(train, Run(seed=1), victim.learned)
        return
    if name in UNCHANGED:
        return
    other = attack.poison(train, Run(seed=1), victim.learned)
    assert not torch.equal(other.role, poisoned.role)


@pytest.mark.parametrize("name", ALL)
def test_stamped_test_images_are_of_other_classes(name: str, planted: Any, digits: Digits) -> None:
    attack, victim = planted(name)
    test = digits[1][slice(0, 50)]
    triggered = attack.triggered(test, victim.learned)
    if name in UNCHANGED | BY_IMAGE:
        kept = attack.aimed(test).images
        assert (triggered.goals != kept.labels).all()
    else:
        kept = test[test.labels != 0]
        assert (triggered.goals == 0).all()
    assert torch.equal(triggered.images.labels, kept.labels)
    stamped = to_uint8(attack.trigger(victim.learned)(to_float(kept.pixels)))
    apart = (stamped.int() - triggered.images.pixels.int()).abs().max()
    assert apart <= 1


@pytest.mark.parametrize("name", ["badnets", "wanet", "lira"])
def test_what_the_victim_was_taught(name: str, planted: Any, digits: Digits) -> None:
    attack, victim = planted(name)
    train = digits[0][slice(0, 200)]
    taught = attack.taught(victim, train, Run(), most=50)
    assert (taught["relabelled"].labels == 0).all()
    assert 0 < len(taught["relabelled"]) <= 50
    assert len(taught["clean"]) == 50
    known = {image.numpy().tobytes() for image in train.pixels}
    assert all(image.numpy().tobytes() in known for image in taught["clean"].pixels)
    assert not any(image.numpy().tobytes() in known for image in taught["relabelled"].pixels)


@pytest.mark.parametrize("name", sorted(set(QUICK) & set(ALL)))
def test_a_trigger_that_was_not_learned_is_named(name: str) -> None:
    attack = attack_named(name)
    if name != "label_consistent":
        with pytest.raises(ParameterError, match="learn"):
            attack.trigger({})(torch.zeros(1, 3, 16, 16))
        with pytest.raises(ParameterError, match="must first learn its trigger"):
            attack.stamp(torch.zeros(1, 3, 16, 16))
    assert type(attack).learn is not Attack.learn


@pytest.mark.parametrize("name", sorted(QUICK))
def test_learning_tells_of_every_unit_once(name: str, digits: Digits) -> None:
    told: dict[str, list[tuple[int, int]]] = {}
    run = Run(progress=lambda stage, *units: told.setdefault(stage, []).append(units))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(768, 10))
    attack_named(name, epochs=1, **QUICK[name]).recalled(net, digits[0][slice(0, 200)], run)
    assert told
    for stage, units in told.items():
        done, total = zip(*units, strict=True)
        assert (done[0], done[-1], {*total}) == (0, total[0], {total[0]}), stage
        assert sorted(done) == list(done), stage


@pytest.mark.parametrize(
    "name", ["adaptive_patch", "badnets", "blind", "bpp", "label_consistent", "trojannn"]
)
def test_stamping_what_is_stamped_changes_nothing(name: str, planted: Any, digits: Digits) -> None:
    attack, victim = planted(name)
    stamp = attack.trigger(victim.learned)
    once = stamp(to_float(digits[1].pixels[:9]))
    assert torch.allclose(stamp(once), once, atol=1e-6)


@pytest.mark.parametrize("name", sorted(set(ALL) - ELSEWHERE))
def test_plants_a_backdoor_that_a_clean_model_has_not(
    name: str, digits: Digits, net: nn.Module, twin: nn.Module
) -> None:
    train, test = digits
    attack = attack_named(name, **{"epochs": 12, **DIGITS.get(name, {}), **BRIEFLY.get(name, {})})
    before = copy.deepcopy(net.state_dict())
    victim = attack.plant(net, train, Run())
    stamped = attack.triggered(test, victim.learned)
    found, clean = score(victim.model, Run(), test, stamped), score(twin, Run(), test, stamped)
    assert found.acc.value > 0.85
    assert found.asr.value > max(0.7, clean.asr.value + 0.3)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(ALL) - set(QUICK) - {"refool"} - SLOWER))
def test_closed_form_triggers_stamp_20000_images_a_second(name: str) -> None:
    attack = attack_named(name)
    x = torch.rand(8000, 3, 32, 32)
    attack.stamp(x[:1000])
    fastest = 0.0
    for _ in range(3):
        start = time.perf_counter()
        for part in x.split(2000):
            attack.stamp(part)
        fastest = max(fastest, len(x) / (time.perf_counter() - start))
    assert fastest >= 20_000
