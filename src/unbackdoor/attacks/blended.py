"""Blended: a faint fixed picture over the whole image."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ..core.method import source
from .base.attack import Attack
from .base.patterns import given, picture


class Blended(Attack):
    """Mixes a fixed picture into each image: x' = (1 - ratio) x + ratio t.

    Images are `[n, c, h, w]` in [0, 1]. The paper blends in a cartoon or random noise; this
    draws a picture of coloured patches from a seed, the same for every image of a size.

    >>> import torch
    >>> Blended(ratio=0.2).stamp(torch.ones(1, 3, 8, 8)).min() >= 0.8
    tensor(True)
    """

    paper: ClassVar[str] = (
        "Chen, Liu, Li, Lu, Song: Targeted Backdoor Attacks on Deep Learning Systems Using Data "
        "Poisoning, 2017, arXiv 1712.05526"
    )
    limits: ClassVar[str] = "the picture can be seen in smooth regions at a ratio of 0.2"

    files: ClassVar[tuple[str, ...]] = ("indices", "image")

    ratio: float = Field(
        0.2,
        gt=0,
        le=1,
        description="alpha: share of the picture in the mix",
        json_schema_extra=source("Chen et al. 2017 and BackdoorBench: alpha 0.2"),
    )
    pattern: int = Field(
        0,
        ge=0,
        le=2**32 - 1,
        description="seed that the picture is drawn from",
        json_schema_extra=source("ours: the paper's cartoon is not ours to give"),
    )
    grid: int = Field(
        8,
        ge=1,
        description="patches of the picture along each side",
        json_schema_extra=source("ours: as smooth as a picture"),
    )

    image: Path | None = Field(
        None,
        description="picture (PNG, JPEG, BMP) that is mixed in, resized, where it is not "
        "transparent; null: one is drawn",
        json_schema_extra=source("ours: none; for a trigger of one's own"),
    )

    def stamp(self, x: Tensor) -> Tensor:
        """`x` with the picture mixed in."""
        seen, opacity = self._picture(x)
        return torch.lerp(x, seen, self.ratio * opacity)

    def _picture(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The picture and its opacity, as `given`."""
        if self.image is not None:
            seen, opacity = given(self.image, *x.shape[1:])
            return seen.to(x), opacity.to(x)
        return picture(self.pattern, self.grid, *x.shape[1:]).to(x), torch.ones_like(x[0, :1])
