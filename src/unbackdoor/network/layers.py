"""The layers of any `nn.Module` whose channels are feature maps, and the norms they feed.

A layer is a convolution; its channels' feature maps are its outputs. The hidden units of MLP
blocks (a linear layer that feeds another one through an activation, at every token or position)
are channels too: an extension for transformers and ConvNeXt that the FMP paper does not have.
Gated units and networks that do not hold the images in dimension 0 are not covered by it.
A convolution whose pooled maps are the logits makes no features, so it is no layer.

A convolution's norm is the one that its output really flows into. Call order, registration order
and names do not tell (shortcuts are registered late, sums are taken in place), so the pairs are
read off the autograd graph of one forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.parametrize import is_parametrized

from ..core.errors import ModelError
from ..core.modules import device_of, frozen, in_mode

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# What is set to zero in a layer and in its norms to silence a channel.
PARTS = ("weight", "bias", "running_mean")
# Names of autograd nodes that only rearrange values, and of those that act on each value alone.
_COPIES = {"CloneBackward0", "AliasBackward0", "ToCopyBackward0"}
_VIEWS = _COPIES | {
    f"{name}Backward{i}"
    for name in ("View", "UnsafeView", "Permute", "Transpose", "T", "Squeeze", "Unsqueeze")
    for i in range(3)
}
_VIEWS |= {"ReshapeAliasBackward0"}
_POINTWISE = _COPIES | {
    f"{name}Backward0"
    for name in (
        *("Relu", "LeakyRelu", "PreluKernel", "Elu", "Celu", "Gelu", "Silu", "Mish", "Softplus"),
        *("Hardtanh", "Hardswish", "Hardsigmoid", "Sigmoid", "Tanh"),
    )
}
_TO_LOGITS = (
    _VIEWS | _POINTWISE | {"MeanBackward1", "AvgPool2DBackward0", "AdaptiveAvgPool2DBackward0"}
)


@dataclass(frozen=True)
class Layer:
    """A layer of feature maps: the path of its module, that of the norm it feeds, its width.

    `other_norms` is for the rare layer that feeds more than one.
    """

    name: str
    norm: str | None
    channels: int
    other_norms: tuple[str, ...] = ()


@dataclass
class _Trace:
    """What one forward pass tells: who made which autograd node, and who fed whom."""

    images: int
    calls: list[str] = field(default_factory=list)
    made: dict[Any, str] = field(default_factory=dict)
    peaks: dict[str, Tensor] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    fed_by: dict[str, set[str | None]] = field(default_factory=dict)

    def enter(self, name: str, module: nn.Module, x: Tensor) -> None:
        """A norm or a linear layer is called on `x`."""
        if isinstance(module, nn.Linear):
            source = self.source(x, _POINTWISE)
            if source and x.grad_fn not in self.made:
                self.hidden.add(source)
            return
        source = self.source(x, _VIEWS)
        if source and not any(self._in_step(source, x, axis) for axis in _channel_axes(module)):
            source = None
        self.fed_by.setdefault(name, set()).add(source)

    def leave(self, name: str, module: nn.Module, y: Tensor) -> Tensor:
        """A convolution or a linear layer has put out `y`; the pass goes on with a clone.

        `y` may be a view, whose node would be replaced by a change in place.
        """
        y = y.clone()
        if y.shape[0] != self.images or (isinstance(module, nn.Linear) and y.ndim < 3):
            return y
        self.calls.append(name)
        if y.grad_fn is not None:
            self.made[y.grad_fn] = name
            self.peaks[name] = _peaks(y, -1 if isinstance(module, nn.Linear) else 1)
        return y

    def source(self, x: Tensor, through: set[str]) -> str | None:
        """The layer whose output `x` is, but for the operations named in `through`."""
        node: Any = x.grad_fn
        while node is not None and node not in self.made and node.name() in through:
            node = node.next_functions[0][0]
        return self.made.get(node)

    def _in_step(self, source: str, x: Tensor, axis: int) -> bool:
        """Whether `x` holds the channels of `source` along `axis`, in their order.

        Views can shuffle channels; each channel's largest value tells.
        """
        return torch.equal(_peaks(x, axis), self.peaks[source].to(x.dtype))


def _peaks(x: Tensor, axis: int) -> Tensor:
    return x.detach().movedim(axis, 0).flatten(1).amax(1)


def _is_norm(module: nn.Module) -> bool:
    """Whether `module` normalises or scales channels, whoever wrote it."""
    if isinstance(module, (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)):
        return True
    weight = getattr(module, "weight", None)
    leaf = next(module.children(), None) is None
    return isinstance(weight, Tensor) and weight.ndim == 1 and leaf and not _is_other(module)


def _is_other(module: nn.Module) -> bool:
    return isinstance(module, (nn.PReLU, nn.Bilinear, nn.Embedding))


def _channel_axes(norm: nn.Module) -> tuple[int, ...]:
    """The dimensions in which `norm` may take its channels."""
    if isinstance(norm, (_BatchNorm, _InstanceNorm, nn.GroupNorm)):
        return (1,)
    return (-1,) if type(norm) in (nn.LayerNorm, nn.RMSNorm) else (1, -1)


def find_layers(model: nn.Module, x: Tensor) -> tuple[Layer, ...]:
    """The layers of `model` in the order in which a forward pass calls them.

    `x` is `[n, c, h, w]` in [0, 1]; two images are enough. Raises `ModelError` for a model without
    such a layer or one that is compiled, and for a layer that cannot be handled: called twice in a
    pass, run without gradients, sharing its weights, or with weights that are made anew in every
    pass (weight norm and its kin), so that setting them to zero would not last.
    """
    _refuse_compiled(model)
    # The model gets a clone, so that it may change its input in place.
    x = x.detach().to(device_of(model)).requires_grad_()
    trace = _Trace(len(x))
    with _traced(model, trace), in_mode(model, train=False), frozen(model), torch.enable_grad():
        logits = model(x.clone())
    last = trace.source(logits, _TO_LOGITS) if isinstance(logits, Tensor) else None
    modules = dict(model.named_modules())
    names = [
        name
        for name in dict.fromkeys(trace.calls)
        if name != last
        if name in trace.hidden or not isinstance(modules[name], nn.Linear)
    ]
    if not names:
        raise ModelError(f"{type(model).__name__} calls no convolution and no MLP block")
    for name in names:
        _refuse(name, modules, trace, names)
    return tuple(_layer(name, modules, trace) for name in names)


def _refuse_compiled(model: nn.Module) -> None:
    for module in model.modules():
        compiled = hasattr(module, "_orig_mod") or module._compiled_call_impl is not None
        if compiled or isinstance(module, torch.jit.ScriptModule):
            raise ModelError(
                f"{type(model).__name__} is compiled or scripted; give the plain module it is of"
            )


def _refuse(
    name: str, modules: Mapping[str, nn.Module], trace: _Trace, names: Sequence[str]
) -> None:
    module = modules[name]
    if trace.calls.count(name) > 1:
        raise ModelError(f"layer {name!r} is called twice in a pass; it has no one feature map")
    if name not in trace.peaks:
        raise ModelError(f"layer {name!r} is cut off from the image's gradient (no_grad or detach)")
    if not _owns_its_tensors(module):
        raise ModelError(f"layer {name!r} is parametrized; remove the parametrization first")
    for other in names:
        if other != name and modules[other].weight is module.weight:
            raise ModelError(f"layers {name!r} and {other!r} share their weights")


def _owns_its_tensors(module: nn.Module) -> bool:
    """Whether what `silence_` sets to zero is stored, not computed from something else."""
    stored = {*module._parameters, *module._buffers}
    return not is_parametrized(module) and all(
        part in stored for part in PARTS if isinstance(getattr(module, part, None), Tensor)
    )


def _layer(name: str, modules: Mapping[str, nn.Module], trace: _Trace) -> Layer:
    channels = len(trace.peaks[name])
    fed = [norm for norm, sources in trace.fed_by.items() if sources == {name}]
    own = [norm for norm in fed if _can_silence(modules[norm], channels)]
    return Layer(name, own[0] if own else None, channels, tuple(own[1:]))


def _can_silence(norm: nn.Module, channels: int) -> bool:
    """Whether setting `norm`'s tensors to zero at a channel makes that channel's output zero."""
    if not _owns_its_tensors(norm):
        return False
    if isinstance(norm, (_BatchNorm, _InstanceNorm)):
        return bool(norm.num_features == channels)
    weight = getattr(norm, "weight", None)
    return isinstance(weight, Tensor) and weight.shape == (channels,)


@contextmanager
def _traced(model: nn.Module, trace: _Trace) -> Iterator[None]:
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) or _is_norm(module):
            handles.append(
                module.register_forward_pre_hook(
                    lambda module, args, kwargs, name=name: trace.enter(
                        name, module, next(iter((*args, *kwargs.values())))
                    ),
                    with_kwargs=True,
                )
            )
        if isinstance(module, (*_CONVS, nn.Linear)):
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
