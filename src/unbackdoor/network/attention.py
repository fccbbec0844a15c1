"""Attention maps: where in an image the stages of a network look."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from ..core.errors import ModelError
from ..core.modules import pass_with
from .channels import feature_maps
from .layers import Layer

_NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)


def stages(model: nn.Module, x: Tensor, who: str) -> tuple[str, ...]:
    """The paths of the modules that put out each stage of `model`, in the order of a pass on `x`.

    A stage is all that happens at one size of the feature maps `[n, c, h, w]`; its output is that
    of the last module to end at this size. Norms do not count, which in a pre-activation network
    belong to the next stage; nor do maps of one pixel, modules called more than once, and outputs
    `[n, h, w, c]`, which linear layers have and whose last sides are not shaped as the images.
    Raises `ModelError`, in the name of `who`, where there is none.
    """
    ended: list[tuple[str, torch.Size]] = []
    handles = [
        module.register_forward_hook(
            lambda _, args, y, name=name: ended.append((name, getattr(y, "shape", torch.Size())))
        )
        for name, module in model.named_modules()
        if name and not isinstance(module, (*_NORMS, nn.Linear))
    ]
    pass_with(handles, model, x)
    names = [name for name, _ in ended]
    last: dict[tuple[int, int], str] = {}
    height, width = x.shape[2:]
    for name, shape in ended:
        if len(shape) != 4 or shape[2] * shape[3] == 1 or names.count(name) > 1:
            continue
        # Rounding makes sides longer or shorter by less than a pixel.
        if abs(shape[2] * width - shape[3] * height) <= max(height, width):
            size = shape[2], shape[3]
            last.pop(size, None)
            last[size] = name
    if not last:
        raise ModelError(f"{who} needs feature maps of an area; {type(model).__name__} has none")
    return tuple(last.values())


def cuts_patches(model: nn.Module, x: Tensor) -> bool:
    """Whether the convolutions of `model` only cut images `x` into patches, as in transformers.

    There may be some, as a stem, or none: but all come before the first linear layer that takes
    tokens, and there are as many of those, or more. Of pooling by attention there are fewer.
    """
    convolutions, tokens, late = 0, 0, False

    def count(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        nonlocal convolutions, tokens, late
        if isinstance(module, nn.Conv2d):
            convolutions, late = convolutions + 1, late or tokens > 0
        else:
            tokens += bool(args) and args[0].ndim > 2

    handles = [
        module.register_forward_pre_hook(count)
        for module in model.modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    pass_with(handles, model, x)
    return not late and tokens >= max(1, convolutions)


def refuse_patches(model: nn.Module, x: Tensor, who: str) -> None:
    """Raises `ModelError`, in the name of `who`, for a network that only cuts images into patches.

    All else in it happens to tokens.
    """
    if cuts_patches(model, x):
        raise ModelError(
            f"{who} needs feature maps behind the first layers; {type(model).__name__} only cuts "
            "the image into patches there"
        )


@contextmanager
def stage_maps(model: nn.Module, names: tuple[str, ...]) -> Iterator[dict[str, Tensor]]:
    """A dict that forward passes inside fill: stage -> its output `[n, c, h, w]`."""
    with feature_maps(model, [Layer(name, None, 0) for name in names]) as maps:
        yield maps


def attention(maps: Tensor) -> Tensor:
    """The attention `[n, h * w]` of feature maps `[n, c, h, w]`, of length 1 for each image.

    The sum over channels of squared activations (Zagoruyko & Komodakis, ICLR 2017, 1612.03928).
    """
    return F.normalize(maps.float().square().sum(1).flatten(1), dim=1)
