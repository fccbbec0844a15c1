"""Changes of all images towards a class: what is added, a patch, a warp; each of a given size.

Sizes are for images of 32x32 and grow with them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ...training.adversarial import Ball
from ...training.patches import Box, best_square, covering, stepped
from ...training.universal import REFERENCE, clipped

STEPS = 4
"""Steps of gradient descent at each size."""

STEP = 0.4
"""Length of a step, of the size."""

FIRST = 0.1
"""Length of the random start, of the first size."""

SIDE = 32
"""The side of images for which sizes are told."""

Losses = Callable[[Tensor], Tensor]
"""From images `[n, c, h, w]` to how far the model is from a class on each `[n]`, with gradients."""


class Change(ABC):
    """One change of all images `x` `[n, c, h, w]`, fitted at one size after the other."""

    sizes: ClassVar[tuple[float, ...]]
    """They end where clean models begin to obey, too. The last one stands for classes that were not
    reached, so that no lead comes from what lies beyond it."""

    @abstractmethod
    def __init__(self, x: Tensor, rng: torch.Generator) -> None:
        """One that does next to nothing yet."""

    @abstractmethod
    def fit(self, losses: Losses, x: Tensor, size: float) -> None:
        """Lowers the `losses` of the images `x` by a change of this size."""

    @abstractmethod
    def applied(self, x: Tensor) -> Tensor:
        """The images `x` with the change, in [0, 1]."""

    @abstractmethod
    def shown(self, x: Tensor) -> dict[str, Any]:
        """What a `Finding` holds of it, for images like `x`."""


class Added(Change):
    """A perturbation that is added; its size is its L2 length for images of 3x32x32."""

    sizes = tuple(0.25 * 2 ** (place / 2) for place in range(7))

    def __init__(self, x: Tensor, rng: torch.Generator) -> None:
        draw = torch.randn(x[:1].shape, generator=rng).to(x)
        self.scale = math.sqrt(x[0].numel() / REFERENCE)
        self.away: Tensor = draw / draw.norm() * FIRST * self.sizes[0] * self.scale

    def fit(self, losses: Losses, x: Tensor, size: float) -> None:
        """Some steps of gradient descent within a ball."""
        self.away = _descended(self.away, size * self.scale, lambda away: losses(self._on(x, away)))

    def applied(self, x: Tensor) -> Tensor:
        """The images `x` with the change, in [0, 1]."""
        return self._on(x, self.away)

    def shown(self, x: Tensor) -> dict[str, Any]:
        """What a `Finding` holds of it."""
        return {"change": self.away[0].cpu()}

    @staticmethod
    def _on(x: Tensor, away: Tensor) -> Tensor:
        return clipped(x + away)


class Warp(Change):
    """A smooth displacement of pixels; its size is its root mean square, in pixels."""

    sizes = tuple(0.15 * 2 ** (place / 2) for place in range(8))

    GRID = 4
    """It is given at so many points along each side, and interpolated between them."""

    def __init__(self, x: Tensor, rng: torch.Generator) -> None:
        draw = torch.randn((1, 2, self.GRID, self.GRID), generator=rng).to(x)
        # The two components of a vector share its length.
        self.scale = min(x.shape[2:]) / SIDE * self.GRID
        self.away: Tensor = draw / draw.norm() * FIRST * self.sizes[0] * self.scale

    def fit(self, losses: Losses, x: Tensor, size: float) -> None:
        """Some steps of gradient descent within a ball."""
        self.away = _descended(
            self.away, size * self.scale, lambda away: losses(warped(x, self._flow(x, away)))
        )

    def applied(self, x: Tensor) -> Tensor:
        """The images `x` with the change, in [0, 1]."""
        return warped(x, self._flow(x, self.away))

    def shown(self, x: Tensor) -> dict[str, Any]:
        """What a `Finding` holds of it."""
        return {"change": self._flow(x, self.away)[0].cpu(), "warp": True}

    @staticmethod
    def _flow(x: Tensor, away: Tensor) -> Tensor:
        return F.interpolate(away, size=x.shape[2:], mode="bicubic", align_corners=True)


class Patch(Change):
    """A square with values of its own; its size is its side, in pixels.

    Its place is the best of those where the gradient pulls most and of a grid over the whole
    image: the gradient is taken on clean images, and a trigger may not show there.
    """

    sizes = (2.0, 3.0, 4.0, 5.0, 6.0)

    PULLED, BEST = 3, 3
    """So many places the gradient names, and so many are tried on all images."""
    TRIED = 8
    """Images of 32x32 that each place is first tried on; fewer of larger ones."""

    def __init__(self, x: Tensor, rng: torch.Generator) -> None:
        self.mask, self.values = torch.zeros_like(x[:1, :1]), x[:1]
        self.pull: Tensor | None = None

    def fit(self, losses: Losses, x: Tensor, size: float) -> None:
        """Takes the best place, then some steps of gradient descent for the values."""
        if self.pull is None:
            nothing = torch.zeros_like(x[:1]).requires_grad_()
            (slope,) = torch.autograd.grad(losses(x + nothing).mean(), nothing)
            self.pull = slope.float()
        side = max(1, round(size * min(x.shape[2:]) / SIDE))
        values = (self.pull < 0).to(x)
        few = max(2, self.TRIED * SIDE**2 // x[0, 0].numel())
        square = best_square(losses, x, values, self._places(x, side), few, self.BEST)
        self.mask = covering(square, x)
        for _ in range(STEPS):
            values.requires_grad_()
            (slope,) = torch.autograd.grad(losses(torch.lerp(x, values, self.mask)).mean(), values)
            values = stepped(values, slope)
        self.values = values

    def applied(self, x: Tensor) -> Tensor:
        """The images `x` with the change, in [0, 1]."""
        return torch.lerp(x, self.values, self.mask)

    def shown(self, x: Tensor) -> dict[str, Any]:
        """What a `Finding` holds of it."""
        return {"change": self.values[0].cpu(), "mask": self.mask[0, 0].cpu()}

    def _places(self, x: Tensor, side: int) -> list[Box]:
        """The squares that are tried."""
        assert self.pull is not None
        room = torch.where(self.pull < 0, 1 - x, x).mean(0, keepdim=True)
        strength = F.avg_pool2d((self.pull.abs() * room).sum(1, keepdim=True), side, 1)[0, 0]
        found = []
        for _ in range(self.PULLED):
            top, left = divmod(int(strength.argmax()), strength.shape[1])
            found.append((top, left))
            rows, columns = (
                slice(max(0, at - side // 2), at + side // 2 + 1) for at in (top, left)
            )
            strength[rows, columns] = -1  # the next one lies elsewhere
        height, width = x.shape[2:]
        found += [(top, left) for top in _tiled(height, side) for left in _tiled(width, side)]
        return [(top, top + side, left, left + side) for top, left in found]


def _tiled(length: int, side: int) -> list[int]:
    """Where squares begin that cover a length, from one end to the other."""
    count = math.ceil(length / side)
    return [round(step * (length - side) / max(1, count - 1)) for step in range(count)]


KINDS: dict[str, type[Change]] = {"added": Added, "patch": Patch, "warp": Warp}


def warped(x: Tensor, flow: Tensor) -> Tensor:
    """The images `x` `[n, c, h, w]` with each pixel taken from where `flow` `[1, 2, h, w]` points.

    It points to the right and down, in pixels; beyond an edge is the edge.
    """
    height, width = x.shape[2:]
    rows = torch.arange(height, device=x.device).view(1, -1, 1) + flow[:, 1]
    columns = torch.arange(width, device=x.device).view(1, 1, -1) + flow[:, 0]
    across, down = (2 / max(1, side - 1) for side in (width, height))
    grid = torch.stack([across * columns - 1, down * rows - 1], dim=-1)
    return F.grid_sample(
        x, grid.expand(len(x), -1, -1, -1), padding_mode="border", align_corners=True
    )


def _descended(away: Tensor, radius: float, losses: Losses) -> Tensor:
    """`away` after some steps down the mean of its `losses`, within an L2 ball."""
    ball = Ball(radius, "2")
    for _ in range(STEPS):
        away = away.detach().requires_grad_()
        (slope,) = torch.autograd.grad(losses(away).mean(), away)
        away = ball.clipped(away.detach() - STEP * ball.radius * ball.steepest(slope.float()))
    return away
