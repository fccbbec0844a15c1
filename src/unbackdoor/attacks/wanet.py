"""WaNet: a small smooth warp of the whole image."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ..core.method import source
from ..core.recall import Learned
from .base.attack import Attack
from .base.patterns import scaled


class WaNet(Attack):
    """Warps each image by one smooth field: control points at random, bicubic in between.

    Images are `[n, c, h, w]` in [0, 1], of any size. The field is uniform noise in [-1, 1] over
    its mean absolute value on a `grid` x `grid` lattice, times strength / h in coordinates that
    run from -1 to 1: a strength of 0.5 moves the control points of a square image by a quarter of a
    pixel on average, and all pixels, in between and clamped at the edges, by 0.18 at 32 x 32 (each
    way; the mean over 200 fields). Shifts grow with the image: those at 224 x 224 are
    seven times as many pixels. Cover images are warped with a random jitter on top and keep
    their label. Departure: the paper draws new poisoned and cover images for every batch; here they
    are fixed before training, as in a poisoned data set.

    >>> import torch
    >>> bool((WaNet().stamp(torch.full((1, 3, 8, 8), 0.25)) - 0.25).abs().max() < 1e-6)
    True
    """

    paper: ClassVar[str] = (
        "Nguyen, Tran: WaNet - Imperceptible Warping-based Backdoor Attack, ICLR 2021, "
        "arXiv 2102.10369"
    )
    limits: ClassVar[str] = "needs enough poisoned images to be learned; flat images do not change"

    strength: float = Field(
        0.5,
        gt=0,
        description="mean shift at the control points, half pixels",
        json_schema_extra=source("released code: s = 0.5"),
    )
    grid: int = Field(
        4,
        ge=2,
        description="control points along each side",
        json_schema_extra=source("released code: k = 4"),
    )
    field: int = Field(
        0,
        ge=0,
        le=2**32 - 1,
        description="seed that the field is drawn from",
        json_schema_extra=source("ours: any fixed field"),
    )
    covers: float = Field(
        2.0,
        ge=0,
        description="noise mode: cover images with a jitter on top, for each poisoned one",
        json_schema_extra=source("released code: cross_ratio 2, with noise of up to one step"),
    )

    def places(self, height: int, width: int) -> Tensor:
        """Where each pixel is fetched from: `[1, height, width, 2]`, x and y in [-1, 1]."""
        rng = torch.Generator().manual_seed(self.field)
        noise = torch.rand(1, 2, self.grid, self.grid, generator=rng) * 2 - 1
        smooth = F.interpolate(
            noise / noise.abs().mean(), (height, width), mode="bicubic", align_corners=True
        )
        rows, columns = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
        still = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
        reach = scaled(1, height, width) * self.strength / height
        return (still + reach * smooth.permute(0, 2, 3, 1)).clamp(-1, 1)

    def stamp(self, x: Tensor) -> Tensor:
        """`x` warped."""
        return self._fetched(x, self.places(*x.shape[2:]).expand(len(x), -1, -1, -1))

    def cover_count(self, stamped: int) -> int:
        """`covers` for each poisoned one."""
        return round(self.covers * stamped)

    def cover(self, x: Tensor, learned: Learned, rng: torch.Generator) -> Tensor:
        """`x` warped by the field and by a jitter of its own."""
        height, width = x.shape[2:]
        jitter = torch.rand(len(x), height, width, 2, generator=rng) * 2 - 1
        jitter = scaled(1, height, width) * jitter
        return self._fetched(x, (self.places(height, width) + jitter / height).clamp(-1, 1))

    def _fetched(self, x: Tensor, places: Tensor) -> Tensor:
        return F.grid_sample(x, places.to(x), mode="bilinear", align_corners=True).clamp(0, 1)
