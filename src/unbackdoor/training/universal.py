"""A universal perturbation: one change of all images, kept where it harms a model most."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .adversarial import Ball

FIRST = 0.1
"""Length of the random start, of the radius."""

SEARCH = 0.7
"""Length of a step of a search, of the radius."""

FOLLOW = 0.3
"""Length of the step between two searches, of the radius."""

REFERENCE = 3 * 32 * 32
"""How many values an image has for which `radius` is told."""


class Universal:
    """The perturbation `[1, c, h, w]`, `away`, that raises a model's loss on all images.

    It stays in an L2 ball of `radius` for images of 3x32x32 with values in [0, 1]; for others the
    radius grows with the root of the number of values. `search` finds it anew by `steps` steps of
    normalised gradient ascent; `follow` moves it on by the gradient that `away.grad` holds from the
    training step it was part of, which costs nothing (universal adversarial training: Shafahi et
    al., AAAI 2020, arXiv 1811.11304).
    """

    def __init__(self, radius: float, steps: int) -> None:
        self.radius, self.steps = radius, steps
        self.away = torch.empty(0)

    def search(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        """Finds it for `model`, as it stands, from a random start, on the images `x` `[n, ...]`."""
        ball = self._ball(x)
        start = torch.randn_like(x[:1], memory_format=torch.contiguous_format)
        away = FIRST * ball.radius * ball.steepest(start)
        for _ in range(self.steps):
            away.requires_grad_()
            harm = F.cross_entropy(model(clipped(x + away)).float(), y)
            (slope,) = torch.autograd.grad(harm, away)
            away = self._climbed(ball, away, slope, SEARCH)
        self.away = away.requires_grad_()

    def follow(self) -> None:
        """Moves it up the gradient of the last training step."""
        slope = self.away.grad
        if slope is not None:
            away = self._climbed(self._ball(self.away), self.away, slope, FOLLOW)
            self.away = away.requires_grad_()

    def _climbed(self, ball: Ball, away: Tensor, slope: Tensor, share: float) -> Tensor:
        step = share * ball.radius * ball.steepest(slope.float())
        return ball.clipped(away.detach() + step)

    def _ball(self, x: Tensor) -> Ball:
        return Ball(self.radius * math.sqrt(x[0].numel() / REFERENCE), "2")


def clipped(x: Tensor) -> Tensor:
    """The images `x` brought into [0, 1], with the gradient as if they had been left alone.

    Else a pixel that a perturbation makes darker than black would never come back.
    """
    return x + (x.detach().clamp(0, 1) - x.detach())
