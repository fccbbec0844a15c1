"""The feature maps of any `nn.Module`: capture them, silence channels of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..core.errors import ModelError, UnknownNameError
from .layers import PARTS, Layer

Mask = Mapping[str, Tensor]
"""Layer name -> bool `[channels]` on the CPU, True for a silenced channel."""


def channels_first(module: nn.Module, y: Tensor, channels: int = 0) -> Tensor:
    """The output `y` of a layer's or norm's `module` with its channels in dimension 1.

    A layer norm may have them last or, as libraries derive it, in dimension 1: where it is told
    how many `channels` there are, the shape decides.
    """
    tokens = isinstance(module, nn.LayerNorm) and y.ndim == 3
    last = isinstance(module, nn.Linear) or tokens or y.shape[1] != channels == y.shape[-1]
    return y.movedim(-1, 1) if last else y


@contextmanager
def feature_maps(model: nn.Module, layers: Sequence[Layer]) -> Iterator[dict[str, Tensor]]:
    """A dict that forward passes inside fill: layer name -> `[n, channels, ...]`.

    The maps are copies, so that a sum taken in place later in the pass does not change them.
    """
    maps: dict[str, Tensor] = {}
    handles = []

    def keep(layer: Layer, module: nn.Module, y: Tensor) -> None:
        maps[layer.name] = channels_first(module, y, layer.channels).clone()

    for layer in layers:
        handles.append(
            model.get_submodule(layer.name).register_forward_hook(
                lambda module, _, y, layer=layer: keep(layer, module, y)
            )
        )
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def silence_(model: nn.Module, layers: Sequence[Layer], mask: Mask) -> None:
    """Makes the masked channels of `model` put out exactly 0, in train and in eval mode.

    The weights of the channel, and all that its norm knows of it, become zero: the silence is in
    the weights, so it travels with every checkpoint. Call it after each training step to hold it.
    """
    by_name = {layer.name: layer for layer in layers}
    for name, silent in mask.items():
        if name not in by_name:
            raise UnknownNameError.of("layer", name, by_name)
        layer = by_name[name]
        if silent.shape != (layer.channels,):
            raise ModelError(
                f"layer {name!r} has {layer.channels} channels; its mask is {list(silent.shape)}"
            )
        for path in (name, layer.norm, *layer.other_norms):
            if path is not None:
                _zero(model.get_submodule(path), silent)


def _zero(module: nn.Module, silent: Tensor) -> None:
    for part in PARTS:
        tensor = getattr(module, part, None)
        if isinstance(tensor, Tensor):
            rows = silent.to(tensor.device).view(-1, *[1] * (tensor.ndim - 1))
            tensor.masked_fill_(rows, 0)


def silenced(model: nn.Module, layers: Sequence[Layer], mask: Mask) -> nn.Module:
    """A copy of `model` whose masked channels put out exactly 0; see `silence_`."""
    quiet = copy.deepcopy(model)
    silence_(quiet, layers, mask)
    return quiet
