"""A copy of a model that does little work in each of very many passes, all in eval mode.

In eval mode a BatchNorm scales and shifts every channel by numbers that stay. Where it follows a
convolution that feeds nothing else, the two are one convolution; elsewhere its gradient is one
product, which autograd's own takes several passes over the tensor for.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..core.modules import lay_out_
from ..core.run import Run
from .layers import Layer, find_layers

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Fused(nn.Module):
    """A convolution and its norm as one; `plain` is the convolution alone."""

    def __init__(self, plain: Any, norm: Any) -> None:
        super().__init__()
        self.plain, self.both = plain, fuse_conv_bn_eval(plain, norm)

    def forward(self, x: Tensor) -> Tensor:
        """What the norm put out."""
        y: Tensor = self.both(x)
        return y


class Steady(nn.Module):
    """A BatchNorm in eval mode."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.norm = norm
        scale = (norm.running_var + norm.eps).rsqrt()
        self.register_buffer("scale", scale if norm.weight is None else scale * norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """`[n, channels, ...]` -> the same."""
        y: Tensor = _Steady.apply(x, self.norm, self.scale)
        return y


class _Steady(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Any, scale: Tensor) -> Tensor:
        ctx.scale = scale.to(x.dtype).view(-1, *[1] * (x.ndim - 2))
        return F.batch_norm(
            x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
        )

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient * ctx.scale, None, None


def lean(model: nn.Module, x: Tensor, run: Run) -> nn.Module:
    """A copy of `model` for passes in eval mode under `run.autocast()`.

    Layers keep their paths, but one whose norm was folded into it is a `Fused`. `x` is
    `[n, c, h, w]` in [0, 1]; two images are enough.
    """
    plain = copy.deepcopy(model).to(run.device).eval().requires_grad_(False)
    x = x.to(run.device)
    fast = _lightened(plain, x)
    with torch.no_grad():
        wanted, found = plain(x.clone()), fast(x.clone())
    # What the graph does not show, such as a norm with two paths, shows in the logits.
    if not torch.allclose(found, wanted, rtol=0, atol=1e-3 * float(wanted.abs().max())):
        fast = plain
    return in_precision(fast, run)


def in_precision(model: nn.Module, run: Run) -> nn.Module:
    """A copy of `model` for passes under `run.autocast()` that need not cast weights each time."""
    fast = copy.deepcopy(model).to(run.device).eval().requires_grad_(False)
    for module in fast.modules():
        if isinstance(module, (*_CONVS, nn.Linear)):
            module.to(run.dtype)
    lay_out_(fast, torch.channels_last)
    return fast


def _lightened(plain: nn.Module, x: Tensor) -> nn.Module:
    """A copy of `plain`, in eval mode, with its norms folded or steady."""
    fast = copy.deepcopy(plain)
    for layer in _foldable(fast, x):
        assert layer.norm is not None
        conv, norm = fast.get_submodule(layer.name), fast.get_submodule(layer.norm)
        fast.set_submodule(layer.name, Fused(conv, norm))
        fast.set_submodule(layer.norm, nn.Identity())
    for path, module in list(fast.named_modules()):
        if path and _is_fixed(module):
            fast.set_submodule(path, Steady(module))
    return fast.requires_grad_(False)


def _foldable(model: nn.Module, x: Tensor) -> list[Layer]:
    """The layers that are convolutions and feed their norm alone."""
    found = [
        layer
        for layer in find_layers(model, x)
        if layer.norm is not None and not layer.other_norms
        if type(model.get_submodule(layer.name)) in _CONVS
        if not _hooked(model.get_submodule(layer.name))
        if _is_fixed(model.get_submodule(layer.norm))
    ]
    feeds = _feeds(model, x, [layer.name for layer in found])
    return [layer for layer in found if feeds[layer.name] == 1]


def _is_fixed(module: nn.Module) -> bool:
    """Whether `module` is a BatchNorm whose output hangs on nothing but its input."""
    return type(module) in _NORMS and module.running_var is not None and not _hooked(module)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _feeds(model: nn.Module, x: Tensor, names: Iterable[str]) -> Counter[str]:
    """How many operations on the way to the logits take the output of each of these layers."""
    made: dict[Any, str] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _, __, y, name=name: made.__setitem__(y.grad_fn, name)
        )
        for name in names
    ]
    try:
        with torch.enable_grad():
            logits = model(x.detach().clone().requires_grad_().clone())
    finally:
        for handle in handles:
            handle.remove()
    feeds: Counter[str] = Counter()
    ahead, known = [logits.grad_fn], {logits.grad_fn}
    while ahead:
        for node, _ in ahead.pop().next_functions:
            if node in made:
                feeds[made[node]] += 1
            if node is not None and node not in known:
                known.add(node)
                ahead.append(node)
    return feeds
