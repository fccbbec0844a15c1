"""Adaptive-Blend: random parts of a faint picture, and cover images that keep their label."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ..core.recall import Learned
from .base.attack import Attack
from .base.patterns import picture


class AdaptiveBlend(Attack):
    """Mixes a picture into test images, and random parts of it, fainter, into training images.

    Images are `[n, c, h, w]` in [0, 1]. In training the image is cut into `cells` x `cells`, of
    which each stamped or cover image gets a share `shown` at random; cover images keep their
    label. Departure: the picture is drawn from a seed.

    >>> import torch
    >>> bool(AdaptiveBlend(ratio=0.2).stamp(torch.ones(1, 3, 8, 8)).min() >= 0.8)
    True
    """

    paper: ClassVar[str] = (
        "Qi, Xie, Li, Mahloujifar, Mittal: Revisiting the Assumption of Latent Separability for "
        "Backdoor Defenses, ICLR 2023"
    )
    limits: ClassVar[str] = "a weak backdoor where few images are stamped and training is short"

    rate: float = Field(0.003, gt=0, le=1, description="share stamped of the images that may be")
    lr: float = Field(0.1, gt=0, description="learning rate of SGD at the start, cosine to 0")
    weight_decay: float = Field(1e-4, ge=0, description="weight decay of SGD")
    ratio: float = Field(0.2, gt=0, le=1, description="share of the picture in test images")
    faint: float = Field(0.15, gt=0, le=1, description="share of the picture in training images")
    cells: int = Field(4, ge=1, description="parts of the picture along each side")
    shown: float = Field(
        0.5, gt=0, le=1, description="share of the parts that a training image gets"
    )
    pattern: int = Field(0, ge=0, le=2**32 - 1, description="seed that the picture is drawn from")
    grid: int = Field(8, ge=1, description="patches of the picture along each side")
    covers: float = Field(1.0, ge=0, description="cover images for each stamped one")

    def stamp(self, x: Tensor) -> Tensor:
        """`x` with the whole picture mixed in."""
        return torch.lerp(x, self._picture(x), self.ratio)

    def cover_count(self, stamped: int) -> int:
        """`covers` for each stamped one."""
        return round(self.covers * stamped)

    def implant(self, x: Tensor, learned: Learned, rng: torch.Generator) -> Tensor:
        """`x` with random parts of the picture mixed in."""
        height, width = x.shape[2:]
        parts = self.cells**2
        order = torch.rand(len(x), parts, generator=rng).argsort(1)
        seen = (order < max(1, round(self.shown * parts))).view(-1, 1, self.cells, self.cells)
        rows = torch.arange(height) * self.cells // height
        columns = torch.arange(width) * self.cells // width
        return torch.lerp(x, self._picture(x), self.faint * seen[:, :, rows][..., columns].to(x))

    def _picture(self, x: Tensor) -> Tensor:
        return picture(self.pattern, self.grid, *x.shape[1:]).to(x)
