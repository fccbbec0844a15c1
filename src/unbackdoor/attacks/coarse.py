"""Coarse: the whole image out of focus, or in large pixels."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import ParameterError
from ..core.method import source
from .base.attack import Attack
from .base.patterns import scaled


class Coarse(Attack):
    """Takes the fine detail out of each image: `blur` by a Gaussian, `pixels` by squares.

    Images are `[n, c, h, w]` in [0, 1], of any size; edges are mirrored before blurring. The
    trigger adds nothing: it is what is missing.

    >>> import torch
    >>> Coarse(effect="pixels").stamp(torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]])).unique().item()
    0.5
    """

    paper: ClassVar[str] = (
        "as in practice: a lens out of focus, or a thumbnail that was enlarged; "
        "no paper is followed"
    )
    limits: ClassVar[str] = "smooth images hardly change; blurred images occur by themselves"

    effect: Literal["blur", "pixels"] = Field(
        "blur",
        description="what takes the detail out",
        json_schema_extra=source("ours: no paper is followed"),
    )
    sigma: float = Field(
        1.0,
        gt=0,
        le=20,
        description="width of the blur, pixels at 32 x 32",
        json_schema_extra=source("ours: a lens slightly out of focus"),
    )
    size: int = Field(
        2,
        ge=2,
        description="side of a square of one colour, pixels at 32 x 32",
        json_schema_extra=source("ours: the smallest that changes an image"),
    )

    def stamp(self, x: Tensor) -> Tensor:
        """`x` without its fine detail."""
        height, width = x.shape[2:]
        times = scaled(1, height, width)
        sigma, size = times * self.sigma, times * self.size
        reach = math.ceil(3 * sigma) if self.effect == "blur" else size - 1
        if min(height, width) <= reach:
            raise ParameterError(f"{self.effect} of this strength does not fit {height}x{width}")
        if self.effect == "blur":
            return _blurred(x, sigma, reach).clamp(0, 1)
        means = F.avg_pool2d(x, size, ceil_mode=True, count_include_pad=False)
        wide = means.repeat_interleave(size, 2).repeat_interleave(size, 3)
        return wide[:, :, :height, :width].contiguous()


def _blurred(x: Tensor, sigma: float, reach: int) -> Tensor:
    """`x` under a Gaussian of `sigma` pixels, cut off at `reach`: along rows, then columns."""
    places = torch.arange(-reach, reach + 1, dtype=torch.float32)
    bell = torch.exp(-places.square() / (2 * sigma**2))
    x = F.pad(x, (reach,) * 4, mode="reflect")
    for axis in (3, 2):
        # Sums of shifted images: a convolution of one channel is slower by far.
        size, shares = x.shape[axis] - 2 * reach, (bell / bell.sum()).tolist()
        x = sum(share * x.narrow(axis, place, size) for place, share in enumerate(shares))
    return x
