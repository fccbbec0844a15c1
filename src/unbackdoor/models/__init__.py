"""Networks by name, wrapped so that they take images in [0, 1].

A file here is an architecture of our own and gives it its name; a leading underscore says that it
is none.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import ModelError, ParameterError, UnbackdoorError, UnknownNameError
from ..core.spec import Spec


class Normalized(nn.Module):
    """A network that takes images in [0, 1]: normalisation is its first layer."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, spec: Spec) -> None:
        super().__init__()
        self.net = net
        self.spec = spec
        self.register_buffer("mean", torch.tensor(spec.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Images `[n, c, h, w]` in [0, 1] -> logits `[n, classes]`."""
        logits: Tensor = self.net((x - self.mean) / self.std)
        return logits

    @property
    def channels(self) -> int:
        """How many channels images must have: those of the first convolution."""
        for module in self.net.modules():
            if isinstance(module, nn.Conv2d):
                return module.in_channels
        return len(self.spec.mean)


def create(spec: Spec, rng: torch.Generator | None = None) -> Normalized:
    """The network of `spec` with fresh weights, drawn from `rng` if it is given.

    Nothing is downloaded. Raises `UnknownNameError` for an unknown architecture or option, with
    the nearest one, and `ParameterError` for an option that the network cannot have.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=rng)) if rng else 0)
        return Normalized(_net(spec.arch, len(spec.classes), dict(spec.options)), spec)


def own() -> tuple[str, ...]:
    """The names of the networks that this package brings."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(name for name in found if not name.startswith("_"))


def names() -> tuple[str, ...]:
    """The names that need no further package: our own and torchvision's."""
    from ._torchvision import names as theirs

    return own() + theirs()


def options(arch: str) -> tuple[str, ...]:
    """The options of one of our own networks."""
    return _keywords(_module(arch).build) or ()


def renamed(arch: str, name: str) -> str:
    """The `name` of a tensor, or the one that `arch` has for it here where releases differ."""
    return name


def unused(arch: str) -> tuple[str, ...]:
    """What names begin with whose tensors play no part in the outputs of `arch`."""
    return ()


def infer(arch: str, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The options that the weights `state` tell; none for networks that are not our own.

    Raises `KeyError`, `IndexError` or `ValueError` where the weights are not of that network.
    """
    return dict(_module(arch).infer(state)) if arch in own() else {}


def _net(arch: str, classes: int, given: dict[str, Any]) -> nn.Module:
    build, known = _builder(arch)
    for option in given:
        if known is not None and option not in known:
            raise UnknownNameError.of(f"option of {arch}", option, known)
    try:
        net = build(classes, given)
    except UnbackdoorError:
        raise
    except (TypeError, ValueError, RuntimeError, ArithmeticError, AssertionError) as error:
        reason = (str(error) or type(error).__name__).partition("\n")[0]
        raise ParameterError(f"{arch} cannot be built with {given}: {reason}") from None
    if not isinstance(net, nn.Module):
        raise ModelError(f"{arch} gives a {type(net).__name__}, not a torch.nn.Module")
    return net


Build = Callable[[int, dict[str, Any]], object]


def _builder(arch: str) -> tuple[Build, tuple[str, ...] | None]:
    """What builds `arch` for so many classes with options, and their names where they are known."""
    if arch in own():
        return lambda classes, given: _module(arch).build(classes, **given), options(arch)
    if arch.startswith("timm:"):
        from . import _timm

        name = arch.removeprefix("timm:")
        return lambda classes, given: _timm.build(name, classes, given), _timm.options(name)
    if ":" in arch:
        factory = _factory(arch)
        return lambda classes, given: factory(classes=classes, **given), _keywords(factory)
    from . import _torchvision

    if arch not in _torchvision.names():
        raise UnknownNameError.of("architecture", arch, names())
    return (
        lambda classes, given: _torchvision.build(arch, classes, given),
        _torchvision.options(arch),
    )


def _module(arch: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{arch}")


def _factory(arch: str) -> Callable[..., object]:
    """The function that `package.module:factory` names; importing it runs its module."""
    module, _, name = arch.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UnknownNameError(f"no architecture {arch!r}: {error}") from None
    if not callable(found):
        raise ModelError(f"{arch} is a {type(found).__name__}, not something to call")
    called: Callable[..., object] = found
    return called


def _keywords(build: Callable[..., object]) -> tuple[str, ...] | None:
    """The options that `build` names; None if it takes any."""
    try:
        parameters = inspect.signature(build).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return tuple(parameter.name for parameter in parameters if parameter.name != "classes")
