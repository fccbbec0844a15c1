"""BadNets: a small square in the corner."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from ..core.errors import ParameterError
from ..core.method import source
from .base.attack import Attack
from .base.patterns import given, scaled


class BadNets(Attack):
    """Puts a square of one colour into the bottom right corner.

    Images are `[n, c, h, w]` in [0, 1]; every channel of the square gets `value`. The square
    grows with the image: 3 pixels at 32 x 32 are 21 at 224 x 224.

    >>> import torch
    >>> BadNets(size=1).stamp(torch.zeros(1, 1, 2, 2)).tolist()
    [[[[0.0, 0.0], [0.0, 1.0]]]]
    """

    paper: ClassVar[str] = (
        "Gu, Dolan-Gavitt, Garg: BadNets: Identifying Vulnerabilities in the Machine Learning "
        "Model Supply Chain, 2017, arXiv 1708.06733"
    )
    limits: ClassVar[str] = "the trigger can be seen, and an occlusion of the corner removes it"

    files: ClassVar[tuple[str, ...]] = ("indices", "patch")

    size: int = Field(
        3,
        ge=1,
        description="side of the square, pixels at 32 x 32",
        json_schema_extra=source("BackdoorBench: 3 x 3 at 32 x 32"),
    )
    value: float = Field(
        1.0,
        ge=0,
        le=1,
        description="brightness of the square",
        json_schema_extra=source("BackdoorBench: white"),
    )

    patch: Path | None = Field(
        None,
        description="picture (PNG, JPEG, BMP) in place of the square, resized to it; where it is "
        "transparent the image shows",
        json_schema_extra=source("ours: none; for a trigger of one's own"),
    )

    def stamp(self, x: Tensor) -> Tensor:
        """`x` with the square in its bottom right corner."""
        channels, height, width = x.shape[1:]
        side = scaled(self.size, height, width)
        if min(height, width) < side:
            raise ParameterError(f"a square of {side} pixels does not fit into {height}x{width}")
        stamped = x.clone()
        corner = stamped[..., -side:, -side:]  # a view
        if self.patch is None:
            corner.fill_(self.value)
        else:
            patch, opacity = given(self.patch, channels, side, side)
            corner.lerp_(patch.to(x), opacity.to(x))
        return stamped
