"""Networks by name, wrapped so that they take images in [0, 1].

A file here is an architecture of our own and gives it its name; a leading underscore says that it
is none.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from ..core.errors import ModelError, ParameterError, UnbackdoorError, UnknownNameError
from ..core.outputs import logits_of
from ..core.spec import Spec
from ._own_code import answer as own_answer
from ._recognize import PROBE as PROBE
from ._recognize import Fit as Fit

LIBRARIES = ("timm", "transformers")
"""What may stand before a colon and is no code of a person's own."""


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
        x = (x - self.mean) / self.std
        if names_code(self.spec.arch):
            outputs = own_answer(self.spec.arch, self.net, x)
        else:
            outputs = self.net(x)
        return logits_of(outputs, len(self.spec.classes), self.spec.arch)

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
    the nearest one, `ParameterError` for an option that the network cannot have, and `ModelError`
    for code of a person's own that fails.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=rng)) if rng else 0)
        return Normalized(_net(spec.arch, len(spec.classes), dict(spec.options)), spec)


@cache
def own() -> tuple[str, ...]:
    """The names of the networks that this package brings."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(name for name in found if not name.startswith("_"))


@cache
def names() -> tuple[str, ...]:
    """The names that need no further package: our own and torchvision's."""
    from ._torchvision import names as theirs

    return own() + theirs()


def names_code(arch: str) -> bool:
    """Whether `arch` is code of a person's own, `mynet.py:Net`: building it runs that code."""
    library, colon, _ = arch.partition(":")
    return bool(colon) and library not in LIBRARIES


def options(arch: str) -> tuple[str, ...]:
    """The options of one of our own networks."""
    parameters = inspect.signature(_module(arch).build).parameters
    return tuple(name for name in parameters if name != "classes")


def renamed(arch: str, name: str) -> str:
    """The `name` of a tensor, or the one that `arch` has for it here where releases differ."""
    for pattern, ours in _said(arch, "RENAMED"):
        name = re.sub(pattern, ours, name)
    return name


def unused(arch: str) -> tuple[str, ...]:
    """What names begin with whose tensors play no part in the outputs of `arch`."""
    return _said(arch, "UNUSED")


def note(arch: str) -> str:
    """What a person should know who opens a file of `arch`; empty if there is nothing."""
    return str(getattr(_module(arch), "NOTE", "")) if arch in own() else ""


def infer(arch: str, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The options that the weights `state`, by the names they have here, tell.

    Raises `KeyError`, `IndexError` or `ValueError` where the weights are not of that network.
    """
    if arch in own():
        return dict(_module(arch).infer(state))
    if ":" not in arch:
        from . import _torchvision

        return _torchvision.infer(arch, state)
    return {}


def told_size(net: nn.Module) -> tuple[int, int] | None:
    """The one size (height, width) of images that `net` takes; None if it takes many."""
    inner = getattr(net, "patch_embed", None)
    side = getattr(net, "image_size", None)
    if side is None and getattr(inner, "strict_img_size", False):
        side = getattr(inner, "img_size", None)
    if isinstance(side, int):
        return side, side
    if isinstance(side, tuple | list) and len(side) == 2 and all(isinstance(s, int) for s in side):
        return side[0], side[1]
    return None


def stored_names(net: nn.Module) -> dict[str, str]:
    """The names of `net`'s tensors here -> those in files of its library, where they differ."""
    if type(net).__module__.startswith("transformers."):
        from . import _transformers

        return _transformers.stored_names(net)
    return {}


def bare(arch: str, classes: int, options: Mapping[str, Any]) -> nn.Module:
    """The network alone, for so many classes; raises as `create`."""
    return _net(arch, classes, dict(options))


def usual_size(net: nn.Module) -> tuple[int, int] | None:
    """The size that timm's weights of `net` were trained at, if it has as many classes as they."""
    told = getattr(net, "pretrained_cfg", None) or {}
    if not isinstance(told, dict) or told.get("num_classes") != getattr(net, "num_classes", None):
        return None
    sides = told.get("input_size")
    return (int(sides[1]), int(sides[2])) if sides else None


def fields(arch: str) -> tuple[str, ...]:
    """What a file may say of a network of transformers; raises `UnknownNameError`."""
    from . import _transformers

    return _transformers.options(arch.removeprefix("transformers:"))


def recognize(state: Mapping[str, Tensor]) -> tuple[Fit, ...]:
    """Ours and torchvision's networks that have just the tensors of `state`, by name and shape."""
    from . import _recognize

    return tuple(_recognize.own(state))


def recognize_timm(state: Mapping[str, Tensor]) -> tuple[Fit, ...]:
    """Those of timm; empty where it is not installed."""
    from . import _recognize

    return tuple(_recognize.timm(state))


def probed(arch: str, options: Mapping[str, Any]) -> nn.Module:
    """The network for `PROBE` classes, which no layer has otherwise: without memory if it can be.

    Raises as `create`.
    """
    if arch in names() or arch.startswith(("timm:", "transformers:")):
        with suppress(ParameterError), torch.device("meta"):
            return bare(arch, PROBE, options)
    return bare(arch, PROBE, options)


def _said(arch: str, constant: str) -> tuple[Any, ...]:
    if arch in own():
        return tuple(getattr(_module(arch), constant, ()))
    if ":" not in arch:
        from . import _torchvision

        found: Mapping[str, tuple[Any, ...]] = getattr(_torchvision, constant)
        return next((said for family, said in found.items() if re.fullmatch(family, arch)), ())
    return ()


MOST_TENSORS = 50_000
"""Parameters and buffers of a network; the largest that are known have some thousand."""


@contextmanager
def _bounded(arch: str) -> Iterator[None]:
    """Inside, building a network ends once it has far more layers than any: it would never end."""
    left = MOST_TENSORS

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ParameterError(f"{arch} would have more than {MOST_TENSORS:,} tensors")

    handles = (
        register_module_parameter_registration_hook(count),
        register_module_buffer_registration_hook(count),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _net(arch: str, classes: int, given: dict[str, Any]) -> nn.Module:
    build, known = _builder(arch)
    for option in given:
        if known is not None and option not in known:
            raise UnknownNameError.of(f"option of {arch}", option, known)
    try:
        with _bounded(arch):
            net = build(classes, given)
    except UnbackdoorError:
        raise
    except Exception as error:  # noqa: BLE001 - libraries raise what they like for odd options
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
    library, colon, name = arch.partition(":")
    if library == "timm" and colon:
        from . import _timm

        return lambda classes, given: _timm.build(name, classes, given), _timm.options(name)
    if library == "transformers" and colon:
        from . import _transformers

        return (
            lambda classes, given: _transformers.build(name, classes, given),
            _transformers.options(name),
        )
    if colon:
        from . import _own_code

        return lambda classes, given: _own_code.build(arch, classes, given), _own_code.keywords(
            arch
        )
    from . import _torchvision

    if arch not in _torchvision.names():
        raise UnknownNameError.of("architecture", arch, names())
    return (
        lambda classes, given: _torchvision.build(arch, classes, given),
        _torchvision.options(arch),
    )


def _module(arch: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{arch}")
