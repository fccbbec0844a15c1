"""Adaptive-Blend: random parts of a faint picture, and cover images that keep their label."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ..core.method import source
from ..core.recall import Learned
from .base.attack import Attack
from .base.patterns import given, picture


class AdaptiveBlend(Attack):
    """Mixes a picture into test images, and random parts of it, fainter, into training images.

    Images are `[n, c, h, w]` in [0, 1]. In training the image is cut into `cells` x `cells`, of
    which each poisoned or cover image gets a share `shown` at random; cover images keep their
    label. Departure: the picture is drawn from a seed.

    >>> import torch
    >>> bool(AdaptiveBlend(ratio=0.2).stamp(torch.ones(1, 3, 8, 8)).min() >= 0.8)
    True
    """

    paper: ClassVar[str] = (
        "Qi, Xie, Li, Mahloujifar, Mittal: Revisiting the Assumption of Latent Separability for "
        "Backdoor Defenses, ICLR 2023"
    )
    limits: ClassVar[str] = "a weak backdoor where few images are poisoned and training is short"

    files: ClassVar[tuple[str, ...]] = ("indices", "image")

    rate: float = Field(
        0.003,
        gt=0,
        le=1,
        description="poisoning rate: share of the training set; of the source classes with sources",
        json_schema_extra=source("released code for CIFAR-10: 0.003, and 0.003 covers"),
    )
    lr: float = Field(
        0.1,
        gt=0,
        description="learning rate of SGD at the start, cosine to 0",
        json_schema_extra=source(
            "released code: 0.1, a tenth of it at epochs 50 and 75 of 100; here a "
            "cosine, for all victims are trained alike"
        ),
    )
    weight_decay: float = Field(
        1e-4,
        ge=0,
        description="weight decay of SGD",
        json_schema_extra=source("released code: 1e-4"),
    )
    ratio: float = Field(
        0.2,
        gt=0,
        le=1,
        description="alpha at test: share of the picture in the mix",
        json_schema_extra=source("released code: alpha 0.2 at test"),
    )
    faint: float = Field(
        0.15,
        gt=0,
        le=1,
        description="alpha in training: share of the picture in the mix",
        json_schema_extra=source("released code: alpha 0.15 in training"),
    )
    cells: int = Field(
        4,
        ge=1,
        description="parts of the picture along each side",
        json_schema_extra=source("released code: 16 parts"),
    )
    shown: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of the parts that a training image gets",
        json_schema_extra=source("released code: half of the parts"),
    )
    pattern: int = Field(
        0,
        ge=0,
        le=2**32 - 1,
        description="seed that the picture is drawn from",
        json_schema_extra=source("ours: the paper blends in a cartoon that is not ours to give"),
    )
    grid: int = Field(
        8,
        ge=1,
        description="patches of the picture along each side",
        json_schema_extra=source("ours: as smooth as a picture"),
    )
    covers: float = Field(
        1.0,
        ge=0,
        description="cover images for each poisoned one",
        json_schema_extra=source("released code: as many covers as poisoned images"),
    )

    image: Path | None = Field(
        None,
        description="picture (PNG, JPEG, BMP) that is mixed in, resized, where it is not "
        "transparent; null: one is drawn",
        json_schema_extra=source("ours: none; for a trigger of one's own"),
    )

    def stamp(self, x: Tensor) -> Tensor:
        """`x` with the whole picture mixed in."""
        picture, opacity = self._picture(x)
        return torch.lerp(x, picture, self.ratio * opacity)

    def cover_count(self, stamped: int) -> int:
        """`covers` for each poisoned one."""
        return round(self.covers * stamped)

    def implant(self, x: Tensor, learned: Learned, rng: torch.Generator) -> Tensor:
        """`x` with random parts of the picture mixed in."""
        height, width = x.shape[2:]
        parts = self.cells**2
        order = torch.rand(len(x), parts, generator=rng).argsort(1)
        seen = (order < max(1, round(self.shown * parts))).view(-1, 1, self.cells, self.cells)
        rows = torch.arange(height) * self.cells // height
        columns = torch.arange(width) * self.cells // width
        shown = self.faint * seen[:, :, rows][..., columns].to(x)
        picture, opacity = self._picture(x)
        return torch.lerp(x, picture, shown * opacity)

    def _picture(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The picture and its opacity, as `given`."""
        if self.image is not None:
            seen, opacity = given(self.image, *x.shape[1:])
            return seen.to(x), opacity.to(x)
        return picture(self.pattern, self.grid, *x.shape[1:]).to(x), torch.ones_like(x[0, :1])
