"""What every attack and defense must keep to; a walk over the folders, so none is left out."""

from __future__ import annotations

import random
import warnings
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from unbackdoor import method
from unbackdoor.attack import CLEAN, STAMPED, Attack, Victim
from unbackdoor.defense import Defense
from unbackdoor.errors import UnbackdoorWarning
from unbackdoor.images import Images
from unbackdoor.models import Spec, create
from unbackdoor.run import Run

# Fields that decide how long a method takes, and a value that makes it short.
SHORT = {
    "epochs": 1,
    "batch": 8,
    "search_epochs": 1,
    "unlearn_epochs": 1,
    "copy_epochs": 1,
    "teacher_epochs": 1,
    "clean_epochs": 1,
    "mask_epochs": 1,
    "trigger_epochs": 1,
    "ranking_images": 4,
    "width": 2,
    "p": 2,
    "steps": 1,
    "rounds": 1,
    "images": 8,
    "size": 2,
}
CLASSES = ("ant", "bee", "cat")
EVERY = [(role, name) for role in method.ROLES for name in method.names(role)]
ATTACKS, DEFENSES = ([name for role, name in EVERY if role == wanted] for wanted in method.ROLES)


def short(role: str, name: str) -> method.Method:
    fields = method.find(role, name).model_fields
    return method.build(role, name, {key: SHORT[key] for key in fields if key in SHORT})


def images(seed: int, n: int = 24) -> Images:
    rng = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 3, 32, 32), generator=rng, dtype=torch.uint8)
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


def applied(role: str, name: str, model: nn.Module, given: Images, seed: int = 0) -> nn.Module:
    run = Run(seed, precision="fp32")
    chosen = short(role, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnbackdoorWarning)
        if isinstance(chosen, Attack):
            return chosen.plant(model, given, run).model
        assert isinstance(chosen, Defense)
        return chosen.repair(model, given, run).model


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
def test_leaves_model_images_and_chance_as_found_and_repeats_bit_for_bit(role, name):
    model, given = victim(), images(1)
    before, pixels, chance = state(model), given.pixels.clone(), globals_of_chance()
    first = applied(role, name, model, given)
    assert same(state(model), before)
    assert torch.equal(given.pixels, pixels)
    assert globals_of_chance() == chance
    torch.manual_seed(99)
    random.seed(99)
    second = applied(role, name, model, given)
    assert same(first.state_dict(), second.state_dict())
    assert first is not model


@pytest.mark.parametrize("name", DEFENSES)
def test_a_repaired_model_is_in_the_modes_it_came_in_and_without_hooks(name):
    model = victim()
    repaired = applied("defense", name, model, images(1))
    modes = {path: module.training for path, module in repaired.named_modules()}
    assert all(modes[path] == module.training for path, module in model.named_modules())
    for module in repaired.modules():
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        # What a repair hangs behind a layer is called by a hook, and listed in the state dict.
        assert all(hook.__module__ == "unbackdoor.inserts" for hook in hooks)


@cache
def planted(name: str, all_to_all: bool = False) -> tuple[Attack, Victim]:
    """An attack and its victim: some triggers are known only once they have been learned."""
    attack = short("attack", name)
    assert isinstance(attack, Attack)
    if all_to_all:
        attack = type(attack).model_validate({**attack.model_dump(), "all_to_all": True})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnbackdoorWarning)
        return attack, attack.plant(victim(), images(2), Run(precision="fp32"))


@pytest.mark.parametrize("name", ATTACKS)
def test_a_stamp_is_pure_per_image_and_stays_within_range(name):
    attack, planting = planted(name)
    stamp = attack.trigger(planting.learned)
    x = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    with torch.no_grad():
        stamped, again, one = stamp(x), stamp(x), stamp(x[2:3])
    assert torch.equal(x, before)
    assert stamped.shape == x.shape and 0 <= float(stamped.min()) <= float(stamped.max()) <= 1
    assert not torch.equal(stamped, x)
    assert torch.equal(again, stamped)
    torch.testing.assert_close(one, stamped[2:3])


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("all_to_all", [False, True])
def test_only_stamped_images_are_changed_and_triggered_ones_are_not_of_the_goal(name, all_to_all):
    if all_to_all and method.find("attack", name).clean_label:
        with pytest.raises(ValueError, match="clean-label"):
            planted(name, all_to_all)
        return
    attack, planting = planted(name, all_to_all)
    given = images(2)
    if planting.poisoned:
        changed = (planting.poisoned.images.pixels != given.pixels).flatten(1).any(1)
        assert int((planting.poisoned.role == STAMPED).sum()) >= 1
        assert not bool(changed[planting.poisoned.role == CLEAN].any())
        assert torch.equal(planting.poisoned.original, given.labels)
    triggered = attack.triggered(given, planting.learned)
    assert bool((triggered.goals != triggered.images.labels).all())
    assert len(triggered.images) == (len(given) if all_to_all else len(given) * 2 // 3)
