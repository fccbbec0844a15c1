"""MarkedAttack: a plain mark, for attacks whose point is how the victim is trained."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ...core.errors import ParameterError
from ...core.method import source
from .attack import Attack
from .patterns import picture, scaled


class MarkedAttack(Attack):
    """An attack that puts a white square into the last corner, or blends a picture in."""

    mark: Literal["square", "picture"] = Field(
        "square",
        description="the trigger",
        json_schema_extra=source("ours: what is trained is the point, not the trigger"),
    )
    size: int = Field(
        3,
        ge=1,
        description="side of the square, pixels at 32 x 32",
        json_schema_extra=source("BadNets' square as BackdoorBench draws it: 3 pixels at 32 x 32"),
    )
    ratio: float = Field(
        0.2,
        gt=0,
        le=1,
        description="alpha: share of the picture in the mix",
        json_schema_extra=source("Chen et al. 2017, and BackdoorBench: 0.2"),
    )

    def stamp(self, x: Tensor) -> Tensor:
        """`x` with the mark in each."""
        if self.mark == "picture":
            return torch.lerp(x, picture(0, 8, *x.shape[1:]).to(x), self.ratio)
        height, width = x.shape[2:]
        side = scaled(self.size, height, width)
        if min(height, width) < side:
            raise ParameterError(f"a square of {side} pixels does not fit into {height}x{width}")
        stamped = x.clone()
        stamped[..., -side:, -side:] = 1
        return stamped
