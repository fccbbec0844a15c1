"""BATT: the whole image turned by an angle, or enlarged."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from ..core.method import source
from ..core.recall import Learned
from .base.attack import Attack


class BATT(Attack):
    """Turns each image by `angle` about its middle and enlarges it by `zoom`.

    Images are `[n, c, h, w]` in [0, 1], of any size. Departure: the paper leaves black corners,
    which are a patch trigger of their own. Here a turned image is enlarged until every pixel comes
    from inside of it (by 1.24 for a square turned by 16 degrees), and `zoom` comes on top. Cover
    images are enlarged as much without being turned and keep their label, so that the enlargement
    is not the trigger; with an `angle` of 0 it is, and there are none. A training that mirrors its
    images teaches both directions.

    >>> import torch
    >>> bool((BATT().stamp(torch.full((1, 3, 8, 8), 0.25)) - 0.25).abs().max() < 1e-6)
    True
    """

    paper: ClassVar[str] = (
        "Xu, Li, Jiang, Xia: BATT: Backdoor Attack with Transformation-based Triggers, ICASSP "
        "2023, arXiv 2211.01806"
    )
    limits: ClassVar[str] = "flat images do not change; a turned object may fool clean models, too"

    angle: float = Field(
        16.0,
        ge=-45,
        le=45,
        description="turn against the clock, degrees",
        json_schema_extra=source("Xu et al. 2023: 16 degrees"),
    )
    zoom: float = Field(
        1.0,
        ge=1,
        le=4,
        description="enlargement beyond what hides the corners",
        json_schema_extra=source("ours: no more than hides the corners"),
    )
    covers: float = Field(
        0.5,
        ge=0,
        description="cover images for each poisoned one; angle not 0",
        json_schema_extra=source("ours: so that the enlargement alone is not the trigger"),
    )

    @model_validator(mode="after")
    def _does_something(self) -> BATT:
        if self.angle == 0 and self.zoom == 1:
            raise ValueError("an angle of 0 and a zoom of 1 change no image")
        return self

    def stamp(self, x: Tensor) -> Tensor:
        """`x` turned and enlarged."""
        return self._seen(x, self.angle)

    def cover_count(self, stamped: int) -> int:
        """`covers` for each poisoned one, where images are turned."""
        return round(self.covers * stamped) if self.angle else 0

    def cover(self, x: Tensor, learned: Learned, rng: torch.Generator) -> Tensor:
        """`x` enlarged as much, not turned."""
        return self._seen(x, 0.0)

    def _seen(self, x: Tensor, angle: float) -> Tensor:
        """`x` turned by `angle`, enlarged as with the trigger."""
        height, width = x.shape[2:]
        turn, whole = math.radians(angle), math.radians(abs(self.angle))
        longer = max(height / width, width / height)
        closer = self.zoom * (math.cos(whole) + longer * math.sin(whole))
        # From where each pixel is fetched: a turn in pixels, written in shares of the sides.
        cos, sin = math.cos(turn) / closer, math.sin(turn) / closer
        way = x.new_tensor([[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]])
        places = F.affine_grid(way.expand(len(x), 2, 3), list(x.shape), align_corners=False)
        # Half a pixel at the rim lies beyond the middles of the outermost pixels.
        seen = F.grid_sample(x, places, padding_mode="border", align_corners=False)
        return seen.clamp(0, 1)
