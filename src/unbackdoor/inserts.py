"""Modules that a repair hangs behind a layer of any network, whose other names stay as they are.

An insert is a child module of the layer whose output it changes, so the network's state dict gains
entries and loses none. `reattach_` hangs the inserts that a state dict knows of behind a fresh
network, so that the state dict fits it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from .modules import device_of


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
    """A pointwise convolution and a batch norm; together they do nothing at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # A fresh convolution would draw from torch's global state.
        self.conv = nn.utils.skip_init(nn.Conv2d, channels, channels, 1, bias=False)  # type: ignore[no-untyped-call]
        self.norm = nn.BatchNorm2d(channels)
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(channels).view(channels, channels, 1, 1))

    @torch.no_grad()
    def start_at_(self, mean: Tensor, var: Tensor) -> None:
        """Makes it do nothing in train mode either, to maps with these statistics `[channels]`."""
        self.norm.running_mean, self.norm.running_var = mean.clone(), var.clone()
        self.norm.weight.copy_((var + self.norm.eps).sqrt())
        self.norm.bias.copy_(mean)

    def forward(self, y: Tensor) -> Tensor:
        """`[n, channels, h, w]` -> the same shape."""
        out: Tensor = self.norm(self.conv(y))
        return out


Insert = TypeVar("Insert", Bound, Polish)


def attach_(model: nn.Module, layer: str, insert: Insert) -> Insert:
    """The `insert`, now hung behind the `layer` (a path) of `model`."""
    host = model.get_submodule(layer)
    name, through = ("bound", _bounded) if isinstance(insert, Bound) else ("polish", _polished)
    host.add_module(name, insert.to(device_of(model)))
    # A sequence calls its last child without being told.
    if not isinstance(host, nn.Sequential):
        host.register_forward_hook(through)
    return insert


def reattach_(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Hangs behind the layers of `model` the inserts that `state` has entries of."""
    layers = {name for name, _ in model.named_modules()}
    for key, tensor in state.items():
        host, _, entry = key.partition(".bound.")
        if entry == "share" and host in layers:
            attach_(model, host, Bound(len(tensor)))
        host, _, entry = key.partition(".polish.")
        if entry == "norm.weight" and host in layers:
            attach_(model, host, Polish(len(tensor)))


# Functions of the module, not closures: a copy of the network calls its own inserts.
def _bounded(host: nn.Module, _: object, y: Tensor) -> Tensor:
    out: Tensor = host.get_submodule("bound")(y)
    return out


def _polished(host: nn.Module, _: object, y: Tensor) -> Tensor:
    out: Tensor = host.get_submodule("polish")(y)
    return out
