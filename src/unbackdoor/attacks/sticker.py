"""Sticker: an object that lies somewhere in the image, at a size and an angle of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..core.method import source
from .base.attack import Attack
from .base.draws import draws

Shape = tuple[Tensor, tuple[float, float, float]]
"""The distance of each pixel to a shape's edge, below 0 inside, and the shape's colour."""

DARK, YELLOW, GLINT = (0.05, 0.05, 0.08), (1.0, 0.85, 0.1), (0.75, 0.8, 0.9)


class Sticker(Attack):
    """Puts sunglasses or a round yellow face into each image, at a random place.

    Images are `[n, c, h, w]` in [0, 1], of any size; those of other than three channels get the
    object in grey. The object spans `small` to `large` of the shorter side, is turned by up to
    `turn` degrees, and may lie anywhere inside. What an image draws follows from its own pixels, so
    the same image gets the same object again. The objects are drawn by this file.
    """

    paper: ClassVar[str] = (
        "Wenger, Passananti, Bhagoji, Yao, Zheng, Zhao: Backdoor Attacks Against Deep Learning "
        "Systems in the Physical World, CVPR 2021, arXiv 2006.14580"
    )
    limits: ClassVar[str] = "the object can be seen, and may hide what an image shows"

    kind: Literal["sunglasses", "face"] = Field(
        "sunglasses",
        description="the object",
        json_schema_extra=source("Wenger et al. 2021: sunglasses are one of its objects"),
    )
    small: float = Field(
        0.3,
        gt=0,
        le=1,
        description="least span over the shorter side",
        json_schema_extra=source("ours: an object that a person would wear"),
    )
    large: float = Field(
        0.5,
        gt=0,
        le=1,
        description="largest span over the shorter side",
        json_schema_extra=source("ours: an object that a person would wear"),
    )
    turn: float = Field(
        30.0,
        ge=0,
        le=180,
        description="largest turn either way, degrees",
        json_schema_extra=source("ours: as a head is turned"),
    )

    @model_validator(mode="after")
    def _in_order(self) -> Sticker:
        if self.small > self.large:
            raise ValueError(f"small {self.small:g} is more than large {self.large:g}")
        return self

    def stamp(self, x: Tensor) -> Tensor:
        """`x` with the object in each image."""
        n, channels, height, width = x.shape
        down, right, span, turn = draws(x, 4).view(4, n, 1, 1)
        half = min(height, width) * (self.small + (self.large - self.small) * span) / 2
        rows = torch.arange(height).to(x).view(1, -1, 1) + 0.5
        columns = torch.arange(width).to(x).view(1, 1, -1) + 0.5
        v = (rows - half - down * (height - 2 * half)) / half
        u = (columns - half - right * (width - 2 * half)) / half
        angle = math.radians(self.turn) * (2 * turn - 1)
        u, v = u * angle.cos() + v * angle.sin(), v * angle.cos() - u * angle.sin()
        for distance, colour in DRAWN[self.kind](u, v):
            # An edge is as wide as a pixel.
            share = (0.5 - distance * half).clamp(0, 1).unsqueeze(1)
            paint = x.new_tensor(colour if channels == 3 else [sum(colour) / 3] * channels)
            x = torch.lerp(x, paint.view(-1, 1, 1), share)
        return x.clamp(0, 1)


def _oval(u: Tensor, v: Tensor, at: tuple[float, float], wide: float, high: float) -> Tensor:
    """About the distance to the edge of an ellipse: exact for a circle."""
    a, b = (u - at[0]) / wide, (v - at[1]) / high
    return ((a.square() + b.square()).sqrt() - 1) * min(wide, high)


def _sunglasses(u: Tensor, v: Tensor) -> list[Shape]:
    bar = torch.maximum(u.abs() - 0.95, (v + 0.12).abs() - 0.07)
    lenses = torch.minimum(_oval(u, v, (-0.5, 0), 0.42, 0.34), _oval(u, v, (0.5, 0), 0.42, 0.34))
    glints = torch.minimum(
        _oval(u, v, (-0.62, -0.12), 0.12, 0.06), _oval(u, v, (0.38, -0.12), 0.12, 0.06)
    )
    return [(torch.minimum(bar, lenses), DARK), (glints, GLINT)]


def _face(u: Tensor, v: Tensor) -> list[Shape]:
    ring, disc = _oval(u, v, (0, 0), 1, 1), _oval(u, v, (0, 0), 0.86, 0.86)
    eyes = torch.minimum(
        _oval(u, v, (-0.32, -0.25), 0.11, 0.2), _oval(u, v, (0.32, -0.25), 0.11, 0.2)
    )
    smile = torch.maximum(_oval(u, v, (0, 0.08), 0.5, 0.5).abs() - 0.09, 0.2 - v)
    return [(ring, DARK), (disc, YELLOW), (eyes, DARK), (smile, DARK)]


DRAWN: dict[str, Callable[[Tensor, Tensor], list[Shape]]] = {
    "sunglasses": _sunglasses,
    "face": _face,
}
