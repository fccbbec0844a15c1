"""Modules that a repair hangs at a layer of any network, whose other names stay as they are.

An insert is a child module of the layer whose output or input it changes, so the network's state
dict gains entries and loses none. `reattach_` hangs the inserts that a state dict knows of at a
fresh network's layers, so that the state dict fits it. A state dict may come from a stranger: only
the three kinds of inserts below exist, and their size is what the network itself says, or there is
none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from ..core.errors import ModelError
from ..core.modules import device_of
from .blocks import find_blocks

INSERTS = ("bound", "filter", "gate")
"""What a layer calls the three kinds of inserts."""


class Bound(nn.Module):
    """Cuts each channel off above a share of the most it should ever put out."""

    most: Tensor

    def __init__(self, channels: int, most: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("most", torch.ones(channels) if most is None else most)
        self.share = nn.Parameter(torch.ones(channels))

    def forward(self, y: Tensor) -> Tensor:
        """`[n, channels, ...]` -> the same, at most `share * most` in each channel."""
        limit = (self.share * self.most).view(-1, *[1] * (y.ndim - 2))
        return torch.minimum(y, limit.to(y.dtype))


class Polish(nn.Module):
    """A pointwise convolution, the identity at first, and a fresh batch norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # A fresh convolution would draw from torch's global state.
        self.conv = nn.utils.skip_init(nn.Conv2d, channels, channels, 1, bias=False)  # type: ignore[no-untyped-call]
        self.norm = nn.BatchNorm2d(channels)
        with torch.no_grad():
            torch.nn.init.dirac_(self.conv.weight)

    def forward(self, y: Tensor) -> Tensor:
        """`[n, channels, h, w]` -> the same shape."""
        out: Tensor = self.norm(self.conv(y))
        return out


class Gate(nn.Module):
    """Multiplies each dimension of an encoder block's tokens by a share."""

    share: Tensor

    def __init__(self, width: int, share: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("share", torch.ones(width) if share is None else share)


Insert = TypeVar("Insert", Bound, Polish, Gate)


def attach_(model: nn.Module, layer: str, insert: Insert) -> Insert:
    """The `insert`, now at the `layer` (a path) of `model`: a polish before it, others behind.

    A polish takes what a convolution would have taken. Raises `ModelError` where such an insert, or
    anything of its name, is there already.
    """
    host = model.get_submodule(layer)
    name = INSERTS[(Bound, Polish, Gate).index(type(insert))]
    if hasattr(host, name):
        raise ModelError(f"{layer} has a {name} already; repair the model that had none")
    host.add_module(name, insert.to(device_of(model)))
    if isinstance(insert, Polish):
        host.register_forward_pre_hook(_polished)
    else:
        host.register_forward_hook(_bounded if isinstance(insert, Bound) else _gated)
    return insert


def reattach_(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Hangs at the layers of `model` the inserts that `state` has entries of.

    What does not fit the layer that it names is left out, so that `state` then has entries that
    `model` lacks. Nothing is made that is larger than what `state` holds.
    """
    # A polish first: a bound may hang behind its norm.
    for layer, channels in _named(model, state, "filter", "norm.weight").items():
        host = model.get_submodule(layer)
        kernel = state.get(f"{layer}.filter.conv.weight")
        square = kernel is not None and kernel.shape == (channels, channels, 1, 1)
        if square and isinstance(host, nn.Conv2d) and channels == host.in_channels:
            attach_(model, layer, Polish(channels))
    for layer, channels in _named(model, state, "bound", "share").items():
        if channels == _width(model.get_submodule(layer)):
            attach_(model, layer, Bound(channels))
    blocks = find_blocks(model)
    for layer, channels in _named(model, state, "gate", "share").items():
        if channels == blocks.get(layer):
            attach_(model, layer, Gate(channels))


def _named(model: nn.Module, state: Mapping[str, Tensor], name: str, entry: str) -> dict[str, int]:
    """The layers of `model` that an insert hangs behind in `state`, and the length of its entry."""
    ending = f".{name}.{entry}"
    hosts = {key.removesuffix(ending): tensor for key, tensor in state.items() if ending in key}
    return {
        layer: len(hosts[layer])
        for layer, module in model.named_modules()
        if layer in hosts and hosts[layer].ndim == 1 and not hasattr(module, name)
    }


def _width(module: nn.Module) -> int | None:
    """How many channels a convolution, a norm over channels or a linear layer puts out."""
    if isinstance(module, _ConvNd):
        return module.out_channels
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, (_BatchNorm, _InstanceNorm)):
        return module.num_features
    return module.num_channels if isinstance(module, nn.GroupNorm) else None


# Functions of the module, not closures: a copy of the network calls its own inserts.
def _bounded(host: nn.Module, _: object, y: Tensor) -> Tensor:
    bound, tokens = host.get_submodule("bound"), isinstance(host, nn.Linear)
    out: Tensor = bound(y.movedim(-1, 1)).movedim(1, -1) if tokens else bound(y)
    return out


def _gated(host: nn.Module, _: object, y: Any) -> Any:
    share = host.get_submodule("gate").share
    assert isinstance(share, Tensor)
    return scaled(host, y, share)


def scaled(host: nn.Module, y: Any, share: Tensor) -> Any:
    """What `host` puts out, each channel times its `share` `[channels]`; of several outputs the
    first. Channels lie in dimension 1 behind a convolution, else in the last one."""
    if isinstance(y, tuple):
        return scaled(host, y[0], share), *y[1:]
    axis = 1 if isinstance(host, _ConvNd) else -1
    return (y.movedim(axis, -1) * share.to(y.dtype)).movedim(-1, axis)


def _polished(host: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return host.get_submodule("filter")(args[0]), *args[1:]
