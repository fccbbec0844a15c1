"""timm's classifiers by name, without weights and without a download."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

from torch import nn

from ..core.errors import ParameterError, UnknownNameError

SET_HERE = {"self", "num_classes"}


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError:
        raise ParameterError(
            "architectures of timm need it installed: pip install 'unbackdoor[hub]'"
        ) from None
    found: ModuleType = timm
    return found


def options(name: str) -> tuple[str, ...] | None:
    """What can be set: the parameters of the network's class, where timm tells it.

    Raises `UnknownNameError` for a name that is not in timm itself: names of a hub would download.
    """
    timm = _timm()
    if not timm.is_model(name):
        raise UnknownNameError.of("architecture", f"timm:{name}", _prefixed(timm.list_models()))
    built = inspect.signature(timm.model_entrypoint(name)).return_annotation
    if not inspect.isclass(built):
        return None
    return tuple(set(inspect.signature(built.__init__).parameters) - SET_HERE)


def build(name: str, classes: int, given: dict[str, Any]) -> nn.Module:
    """The network with fresh weights."""
    fetching = [option for option in given if "pretrained" in option or "checkpoint" in option]
    if fetching:
        raise ParameterError(f"weights come from the model's own file, not by {fetching[0]!r}")
    net: nn.Module = _timm().create_model(name, pretrained=False, num_classes=classes, **given)
    return net


def _prefixed(names: list[str]) -> list[str]:
    return [f"timm:{name}" for name in names]
