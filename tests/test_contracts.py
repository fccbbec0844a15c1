"""What every method must keep to; a walk over the folders, so none is left out."""

from __future__ import annotations

import copy
import random
import warnings
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from unbackdoor.attacks.base.attack import CLEAN, COVER, STAMPED, Attack, Victim
from unbackdoor.attacks.base.controlled import ControlledAttack
from unbackdoor.checkpoints import checkpoint
from unbackdoor.core import method
from unbackdoor.core.errors import ModelError, ParameterError, UnbackdoorWarning
from unbackdoor.core.images import Images, to_float
from unbackdoor.core.run import Run
from unbackdoor.core.spec import Spec
from unbackdoor.defenses.base.defense import Repair
from unbackdoor.models import create
from unbackdoor.scanners.base.scanner import Finding

# What decides how long a method takes, by the ending of its field's name, and what makes it short.
SHORT = {
    "epochs": 1,
    "steps": 1,
    "rounds": 20,
    "terms": 1,
    "images": 4,
    "batch": 12,
    "width": 2,
    "bits": 2,
    "size": 2,
    "p": 2,
}
FITTING: dict[str, dict[str, object]] = {
    "semantic": {"bound": 0.0},
    "bti_dbf": {"rounds": 1},
    "pam": {"rounds": 1, "of": "neural_cleanse", "settings": {"search_epochs": 1, "epochs": 1}},
    "ims": {"rounds": 2, "first_rounds": 2},
}
"""What else makes a method short; for the first, images of noise have what is its trigger."""
UNCHANGED = {"semantic"}
"""Attacks that change labels and no pixel: their trigger is what some images show anyway."""
BY_IMAGE = {"multi_target"}
"""Attacks whose goal depends on the image, not only on its class: how many count is theirs."""
CLASSES = ("ant", "bee", "cat")
EVERY = [(role, name) for role in method.ROLES for name in method.names(role)]
ATTACKS, DEFENSES, SCANNERS = (
    [name for role, name in EVERY if role == wanted] for wanted in method.ROLES
)
MODELS = [(role, name) for role, name in EVERY if role != "scanner"]
"""The methods that give a model."""


def short(role: str, name: str) -> method.Method:
    fields = method.find(role, name).model_fields
    chosen = {key: SHORT[end] for key in fields if (end := key.rpartition("_")[2]) in SHORT}
    chosen |= FITTING.get(name, {})
    # So that a repair of a network that knows nothing is kept, whatever it does to it.
    return method.build(role, name, chosen | ({"max_acc_drop": 1} if role == "defense" else {}))


def images(seed: int, n: int = 36) -> Images:
    rng = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 3, 16, 16), generator=rng, dtype=torch.uint8)
    return Images(pixels, torch.arange(n) % len(CLASSES), CLASSES)


def victim() -> nn.Module:
    """A tiny network in a mixed state: some of it training, some frozen, a gradient, a hook."""
    model = create(
        Spec("preact_resnet18", CLASSES, (0.5,) * 3, (0.2,) * 3, {"width": 2}),
        torch.Generator().manual_seed(0),
    )
    model.eval()
    model.net.layer1.train()
    model.net.conv1.weight.requires_grad_(False)
    model.net.linear.weight.grad = torch.ones_like(model.net.linear.weight)
    return model


def state(model: nn.Module) -> dict[str, object]:
    """All that must be as it was found."""
    return {
        "weights": {key: value.clone() for key, value in model.state_dict().items()},
        "modes": [module.training for module in model.modules()],
        "wanted": [parameter.requires_grad for parameter in model.parameters()],
        "gradients": {
            key: None if value.grad is None else value.grad.clone()
            for key, value in model.named_parameters()
        },
        "hooks": [
            (
                len(module._forward_hooks),
                len(module._forward_pre_hooks),
                len(module._backward_hooks),
            )
            for module in model.modules()
        ],
    }


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return a == b


def globals_of_chance() -> tuple[object, ...]:
    return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())


@dataclass(frozen=True)
class Ran:
    """A method applied twice to one model and the same images."""

    model: nn.Module
    given: Images
    before: dict[str, object]
    after: dict[str, object]
    chance: list[tuple[object, ...]]
    results: list[Victim | Repair | Finding]


@cache
def ran(role: str, name: str) -> Ran:
    """The method as all contracts see it; applied once for all of them, for that takes a while."""
    model, given, chosen = victim(), images(1), short(role, name)
    before, results, chance = state(model), [], []
    for seed in (7, 99):
        torch.manual_seed(seed)
        random.seed(seed)
        chance.append(globals_of_chance())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnbackdoorWarning)
            verb = {"attack": "plant", "defense": "repair", "scanner": "scan"}[role]
            use = getattr(chosen, verb)
            results.append(use(model, given, Run(0, precision="fp32")))
        chance.append(globals_of_chance())
    return Ran(model, given, before, state(model), chance, results)


def planted(name: str) -> tuple[Attack, Victim]:
    attack, victim = short("attack", name), ran("attack", name).results[0]
    assert isinstance(attack, Attack) and isinstance(victim, Victim)
    return attack, victim


@pytest.mark.parametrize(("role", "name"), EVERY)
def test_says_where_it_comes_from_and_what_every_field_means(role, name):
    cls = method.find(role, name)
    assert len(cls.paper) > 20 and len(cls.limits) > 20
    assert (cls.__doc__ or "").strip() and cls.name() == name
    for key, field in cls.model_fields.items():
        assert field.description, key
        assert not field.is_required(), f"{key} has no default"
    assert method.build(role, name, cls().model_dump()) == cls()


@pytest.mark.parametrize(("role", "name"), EVERY)
def test_leaves_model_images_and_chance_as_found(role, name):
    found = ran(role, name)
    assert same(found.after, found.before)
    assert torch.equal(found.given.pixels, images(1).pixels)
    assert torch.equal(found.given.labels, images(1).labels)
    for before, after in zip(found.chance[::2], found.chance[1::2], strict=True):
        assert before == after


@pytest.mark.parametrize("name", SCANNERS)
def test_a_scanner_gives_a_number_for_each_class_and_the_same_again(name):
    first, second = ran("scanner", name).results
    assert first.classes.shape == (len(CLASSES),) and bool(torch.isfinite(first.classes).all())
    assert torch.equal(first.classes, second.classes) and first.score == second.score
    assert len(method.find("scanner", name).statistic) > 10
    if first.change is not None:
        x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        assert first.applied(x).shape == x.shape and float(first.applied(x).min()) >= 0


@pytest.mark.parametrize("name", SCANNERS)
def test_a_scanner_of_a_broken_model_says_so(name):
    model = victim()
    with torch.no_grad():
        model.net.linear.weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        short("scanner", name).scan(model, images(1), Run(0))


@pytest.mark.parametrize(("role", "name"), MODELS)
def test_gives_a_model_of_its_own_and_the_same_again(role, name):
    found = ran(role, name)
    first, second = (result.model for result in found.results)
    assert same(first.state_dict(), second.state_dict())
    storages = {tensor.data_ptr() for tensor in found.model.state_dict().values()}
    assert not storages & {tensor.data_ptr() for tensor in first.state_dict().values()}


@pytest.mark.parametrize(("role", "name"), EVERY)
def test_every_default_says_where_it_comes_from(role, name):
    told = method.declared(method.find(role, name))["parameters"]
    for key, field in told.items():
        source = field["source"]
        assert source and len(source) > 5, f"{name} {key}: no source"
        assert not source.startswith("ours") or len(source) > len("ours: why"), f"{name} {key}"


@pytest.mark.parametrize("name", DEFENSES)
def test_a_repaired_model_is_in_the_modes_it_came_in_and_without_hooks(name):
    found = ran("defense", name)
    repaired = found.results[0].model
    modes = {path: module.training for path, module in repaired.named_modules()}
    assert all(modes[path] == module.training for path, module in found.model.named_modules())
    for module in repaired.modules():
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        # What a repair hangs behind a layer is called by a hook, and listed in the state dict.
        assert all(hook.__module__ == "unbackdoor.network.inserts" for hook in hooks)


@pytest.mark.parametrize("name", DEFENSES)
def test_a_repaired_model_is_loaded_again_from_its_file(name, tmp_path):
    model = ran("defense", name).results[0].model
    checkpoint.save(model, tmp_path / "repaired.safetensors", {})
    loaded = checkpoint.load(tmp_path / "repaired.safetensors")
    x = to_float(images(3, 5).pixels)
    with torch.no_grad():
        # The repaired model of `ran` stays in its modes, for the other contracts.
        assert torch.equal(loaded(x), copy.deepcopy(model).eval()(x))


@pytest.mark.parametrize("name", ATTACKS)
def test_a_victim_was_trained_and_its_trigger_learned_the_same_again(name):
    found = ran("attack", name)
    first, second = found.results
    assert not same(first.model.state_dict(), found.model.state_dict())
    assert same(dict(first.learned), dict(second.learned))
    assert not any(tensor.requires_grad for tensor in first.learned.values())
    if first.poisoned:
        assert torch.equal(first.poisoned.images.pixels, second.poisoned.images.pixels)
    else:
        assert isinstance(short("attack", name), ControlledAttack)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_stamp_is_pure_per_image_and_stays_within_range(name):
    attack, victim = planted(name)
    stamp = attack.trigger(victim.learned)
    x = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    stamped = stamp(x)
    assert torch.equal(x, before)
    assert stamped.shape == x.shape and 0 <= float(stamped.min()) <= float(stamped.max()) <= 1
    assert torch.equal(stamped, x) == (name in UNCHANGED) and not stamped.requires_grad
    assert torch.equal(stamp(x), stamped)
    torch.testing.assert_close(stamp(x[2:3]), stamped[2:3])


def variants(name: str) -> list[tuple[Attack, int]]:
    """The attack, and where it can, from each class to the next; how many of 36 it stamps."""
    attack, _ = planted(name)
    if attack.clean_label:
        return [(attack, 24)]
    return [(attack, 24), (attack.model_copy(update={"all_to_all": True}), 36)]


@pytest.mark.parametrize("name", ATTACKS)
def test_triggered_images_are_not_of_their_goal(name):
    for attack, count in variants(name):
        triggered = attack.triggered(images(2), planted(name)[1].learned)
        assert bool((triggered.goals != triggered.images.labels).all())
        assert len(triggered.images) == count or name in BY_IMAGE


@pytest.mark.parametrize("name", ATTACKS)
def test_poisoned_images_are_counted(name):
    given, learned = ran("attack", name).given, planted(name)[1].learned
    for attack, _ in variants(name):
        if isinstance(attack, ControlledAttack):
            with pytest.raises(ParameterError, match="no fixed poisoned set"):
                attack.poison(given, Run(), learned)
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnbackdoorWarning)
            poisoned = attack.poison(given, Run(), learned)
        changed = (poisoned.images.pixels != given.pixels).flatten(1).any(1)
        relabelled = poisoned.images.labels != given.labels
        assert bool(changed[poisoned.role == STAMPED].any()) == (name not in UNCHANGED)
        assert bool((changed | relabelled)[poisoned.role == STAMPED].any())
        assert not bool((changed | relabelled)[poisoned.role == CLEAN].any())
        assert not bool(relabelled[poisoned.role == COVER].any())
        assert torch.equal(poisoned.original, given.labels)
