"""The feature maps of any `nn.Module`: find them, capture them, silence channels of them.

A layer is a convolution; its channels' feature maps are its outputs. The hidden units of MLP
blocks (a linear layer that feeds another one through an activation, at every token or position)
are channels too: an extension for transformers and ConvNeXt that the FMP paper does not have.

A convolution's norm is the one that its output really flows into. Call order, registration order
and names do not tell (shortcuts are registered late, sums are taken in place), so the pairs are
read off the autograd graph of one forward pass.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.parametrize import is_parametrized

from .errors import ModelError
from .modules import device_of, in_mode

Mask = Mapping[str, Tensor]
"""Layer name -> bool `[channels]` on the CPU, True for a silenced channel."""

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)
# Names of autograd nodes that only rearrange values, and of those that act on each value alone.
_VIEWS = {
    f"{name}Backward{i}"
    for name in ("View", "UnsafeView", "Permute", "Transpose", "T", "Clone", "Alias", "Unsqueeze")
    for i in range(2)
} | {"ReshapeAliasBackward0", "SqueezeBackward1", "ToCopyBackward0"}
_POINTWISE = _VIEWS | {
    f"{name}Backward0"
    for name in ("Gelu", "Relu", "Silu", "Hardswish", "Hardtanh", "Elu", "LeakyRelu", "Mish")
}


@dataclass(frozen=True)
class Layer:
    """A layer of feature maps: the path of its module, that of the norm it feeds, its width."""

    name: str
    norm: str | None
    channels: int


@dataclass
class _Trace:
    """What one forward pass tells: who made which autograd node, and who fed whom."""

    images: int
    calls: list[str] = field(default_factory=list)
    made: dict[Any, str] = field(default_factory=dict)
    norms: dict[str, list[str]] = field(default_factory=dict)
    norm_calls: list[str] = field(default_factory=list)
    hidden: set[str] = field(default_factory=set)

    def enter(self, name: str, module: nn.Module, x: Tensor) -> None:
        if isinstance(module, nn.Linear):
            source = self._source(x, _POINTWISE)
            if source:
                self.hidden.add(source)
        elif isinstance(module, _NORMS):
            self.norm_calls.append(name)
            source = self._source(x, _VIEWS)
            if source:
                self.norms.setdefault(source, []).append(name)

    def leave(self, name: str, module: nn.Module, y: Tensor) -> None:
        if isinstance(module, _NORMS) or y.shape[0] != self.images:
            return
        if isinstance(module, nn.Linear) and y.ndim < 3:
            return
        self.calls.append(name)
        if y.grad_fn is not None:
            self.made[y.grad_fn] = name

    def _source(self, x: Tensor, through: set[str]) -> str | None:
        node: Any = x.grad_fn
        while node is not None and node not in self.made and node.name() in through:
            node = node.next_functions[0][0]
        return self.made.get(node)


def find_layers(model: nn.Module, x: Tensor) -> tuple[Layer, ...]:
    """The layers of `model` in the order in which a forward pass calls them.

    `x` is `[n, c, h, w]` in [0, 1]; one or two images are enough. Raises `ModelError` for a model
    without such a layer, for a layer that one pass calls twice, and for one whose weights are
    parametrized (weight norm and its kin), which cannot be silenced by setting them to zero.
    """
    x = x.detach().to(device_of(model)).clone().requires_grad_()
    trace = _Trace(len(x))
    with _hooked(model, trace), in_mode(model, train=False), torch.enable_grad():
        model(x)
    modules = dict(model.named_modules())
    layers = []
    for name in dict.fromkeys(trace.calls):
        if isinstance(modules[name], nn.Linear) and name not in trace.hidden:
            continue
        if trace.calls.count(name) > 1:
            raise ModelError(f"layer {name!r} is called twice in a pass; it has no one feature map")
        if is_parametrized(modules[name]):
            raise ModelError(f"layer {name!r} is parametrized; remove the parametrization first")
        layers.append(_layer(name, modules, trace))
    if not layers:
        raise ModelError(f"{type(model).__name__} has no convolution and no MLP block to work on")
    return tuple(layers)


def _layer(name: str, modules: Mapping[str, nn.Module], trace: _Trace) -> Layer:
    module = modules[name]
    assert isinstance(module, (*_CONVS, nn.Linear))
    channels = len(module.weight)
    fed = trace.norms.get(name, [])
    own = [norm for norm in fed if trace.norm_calls.count(norm) == 1]
    fits = [norm for norm in own if _can_silence(modules[norm], channels)]
    return Layer(name, fits[0] if fits else None, channels)


def _can_silence(norm: nn.Module, channels: int) -> bool:
    """Whether setting `norm`'s tensors to zero at a channel makes that channel's output zero."""
    if isinstance(norm, (_BatchNorm, _InstanceNorm)):
        return bool(norm.num_features == channels)
    weight = getattr(norm, "weight", None)
    return isinstance(weight, Tensor) and weight.shape == (channels,)


@contextmanager
def _hooked(model: nn.Module, trace: _Trace) -> Iterator[None]:
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, (*_CONVS, *_NORMS, nn.Linear)):
            handles.append(
                module.register_forward_pre_hook(
                    lambda module, args, name=name: trace.enter(name, module, args[0])
                )
            )
            handles.append(
                module.register_forward_hook(
                    lambda module, _, y, name=name: trace.leave(name, module, y)
                )
            )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def channels_first(module: nn.Module, y: Tensor) -> Tensor:
    """The output `y` of a layer's `module` with its channels in dimension 1."""
    return y.movedim(-1, 1) if isinstance(module, nn.Linear) else y


@contextmanager
def feature_maps(model: nn.Module, layers: Sequence[Layer]) -> Iterator[dict[str, Tensor]]:
    """A dict that forward passes inside fill: layer name -> `[n, channels, ...]`.

    The maps are copies, so that a sum taken in place later in the pass does not change them.
    """
    maps: dict[str, Tensor] = {}
    handles = []

    def keep(name: str, module: nn.Module, y: Tensor) -> None:
        maps[name] = channels_first(module, y).clone()

    for layer in layers:
        handles.append(
            model.get_submodule(layer.name).register_forward_hook(
                lambda module, _, y, name=layer.name: keep(name, module, y)
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
    for layer in layers:
        if layer.name not in mask:
            continue
        for path in (layer.name, layer.norm):
            module = model.get_submodule(path) if path else nn.Identity()
            for part in ("weight", "bias", "running_mean"):
                tensor = getattr(module, part, None)
                if isinstance(tensor, Tensor):
                    silent = mask[layer.name].to(tensor.device)
                    tensor.masked_fill_(silent.view(-1, *[1] * (tensor.ndim - 1)), 0)


def silenced(model: nn.Module, layers: Sequence[Layer], mask: Mask) -> nn.Module:
    """A copy of `model` whose masked channels put out exactly 0; see `silence_`."""
    quiet = copy.deepcopy(model)
    silence_(quiet, layers, mask)
    return quiet
