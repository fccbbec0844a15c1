"""BPP: fewer levels for every colour, dithered."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ..core.method import source
from ..core.recall import Learned
from .base.attack import Attack

# Floyd and Steinberg, along the diagonals: (diagonals later, rows down, share of the error).
NEIGHBOURS = ((1, 0, 7 / 16), (1, 1, 3 / 16), (2, 1, 5 / 16), (3, 1, 1 / 16))


class BPP(Attack):
    """Rounds every channel to `levels` evenly spaced values, and dithers what was rounded away.

    Images are `[n, c, h, w]` in [0, 1], of any size. Cover images ("negatives") get the residual
    of another image and keep their label. Departures: the paper trains with contrastive
    adversarial examples in a loop that it controls; this is its poisoned set alone, with half as
    many covers as poisoned images, for plain training hardly tells the two apart.

    >>> import torch
    >>> BPP(levels=2).stamp(torch.tensor([[[[0.5, 0.5, 0.2, 0.9]]]])).tolist()
    [[[[0.0, 1.0, 0.0, 1.0]]]]
    """

    paper: ClassVar[str] = (
        "Wang, Zhai, Ma: BppAttack: Stealthy and Efficient Trojan Attacks against Deep Neural "
        "Networks via Image Quantization and Contrastive Adversarial Learning, CVPR 2022, "
        "arXiv 2205.13383"
    )
    limits: ClassVar[str] = "says nothing on images that have few levels already"

    levels: int = Field(
        8,
        ge=2,
        le=256,
        description="values that a channel can take",
        json_schema_extra=source("released code: squeeze_num 8"),
    )
    dither: bool = Field(
        True,
        description="pass what was rounded away on to the neighbours",
        json_schema_extra=source(
            "the paper's dithering, which the released code leaves off unless asked for"
        ),
    )
    covers: float = Field(
        0.5,
        ge=0,
        description="negatives: cover images for each poisoned one",
        json_schema_extra=source(
            "ours: plain training hardly tells as many negatives as the paper's apart"
        ),
    )

    def stamp(self, x: Tensor) -> Tensor:
        """`x` with fewer levels."""
        if not self.dither:
            return self._rounded(x)
        # A part at a time stays in the processor's cache.
        return torch.cat([self._dithered(part) for part in torch.split(x, 400)])

    def cover_count(self, stamped: int) -> int:
        """`covers` for each poisoned one; at least two, which trade their residuals."""
        return max(2, round(self.covers * stamped)) if self.covers else 0

    def cover(self, x: Tensor, learned: Learned, rng: torch.Generator) -> Tensor:
        """`x` with the residual of its neighbour in the batch."""
        return (x + (self.stamp(x) - x).roll(1, 0)).clamp(0, 1)

    def _rounded(self, x: Tensor) -> Tensor:
        top = self.levels - 1
        return x.clamp(0, 1).mul(top).round() / top

    def _dithered(self, x: Tensor) -> Tensor:
        # Pixel (i, j) takes errors from its row's last pixel and from three of the row above: all
        # pixels with the same 2 i + j can go at once. Cell (2 i + j, i) of `front` is pixel (i, j);
        # errors that leave the image fall into cells that are no pixels.
        n, c, height, width = x.shape
        rows = torch.arange(height, device=x.device).view(-1, 1)
        times = 2 * rows + torch.arange(width, device=x.device)
        front = x.new_zeros(2 * height + width + 1, height + 1, n * c)
        front[times, rows] = x.permute(2, 3, 0, 1).reshape(height, width, n * c)
        for time in range(2 * height + width - 2):
            top, end = max(0, (time - width + 2) // 2), min(height, time // 2 + 1)
            value = front[time, top:end]
            rounded = self._rounded(value)
            error = value - rounded
            value.copy_(rounded)
            for later, down, share in NEIGHBOURS:
                front[time + later, top + down : end + down].add_(error, alpha=share)
        return front[times, rows].reshape(height, width, n, c).permute(2, 3, 0, 1).contiguous()
