"""A universal perturbation: one change of all images that harms a model."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.modules import with_gradient
from .adversarial import Ball

FIRST = 0.1
"""Length of the random start, of the radius."""

SEARCH = 0.7
"""Length of a step of a search, of the radius."""

FOLLOW = 0.3
"""Length of a step between two searches, of the radius."""

REFERENCE = 3 * 32 * 32
"""How many values an image has for which `radius` is told."""


class Universal:
    """A perturbation `[1, c, h, w]` that harms a model on all images.

    It stays in an L2 ball of `radius` for images of 3x32x32 with values in [0, 1]; for others the
    radius grows with the root of the number of values. `search` finds it anew, from a random start
    by `steps` steps of normalised gradient ascent: in turn one that raises the loss, wherever that
    leads, and one that sends all images to one class, each class in its turn in random order. For
    the first kind may stay with a weakness that every classifier has. `follow` moves it up the
    gradient that it got in the training step it was part of, which costs nothing (universal
    adversarial training: Shafahi et al., AAAI 2020, arXiv 1811.11304).

    `state` holds all that changes, so that it can be saved with an optimizer's.
    """

    def __init__(self, radius: float, steps: int) -> None:
        self.radius, self.steps = radius, steps
        self.state: dict[str, Any] = {"away": torch.empty(0), "classes": [], "found": 0}

    def search(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        """Finds it anew for `model`, on the images `x` `[n, c, h, w]` of classes `y` `[n]`."""
        towards_a_class = self.state["found"] % 2 == 1
        found = self._found(model, x, None if towards_a_class else y)
        self.state["found"] += 1
        self.state["away"] = found.requires_grad_()

    def begin(self, x: Tensor) -> None:
        """Goes on as from a saved state: on the device of the images `x`, without a gradient.

        A gradient is not saved, so a training that is not stopped must not keep one, either.
        """
        self.state["away"] = self.state["away"].detach().to(x.device).requires_grad_()

    def follow(self) -> None:
        """Moves it up the gradient of the last training step."""
        away = self.state["away"]
        if away.grad is not None:
            moved = self._climbed(self._ball(away), away, away.grad, FOLLOW)
            self.state["away"] = moved.requires_grad_()

    def added(self, x: Tensor) -> Tensor:
        """The images `x` `[n, c, h, w]` with the perturbation, in [0, 1]."""
        return clipped(x + self.state["away"])

    def _found(self, model: nn.Module, x: Tensor, y: Tensor | None) -> Tensor:
        ball, goal = self._ball(x), y
        start = torch.randn_like(x[:1], memory_format=torch.contiguous_format)
        away = FIRST * ball.radius * ball.steepest(start)
        for _ in range(self.steps):
            away.requires_grad_()
            told = with_gradient(model(clipped(x + away))).float()
            if goal is None:
                goal = torch.full((len(x),), self._next_class(told.shape[1]), device=x.device)
            loss = F.cross_entropy(told, goal)
            (slope,) = torch.autograd.grad(-loss if y is None else loss, away)
            away = self._climbed(ball, away, slope, SEARCH)
        return away

    def _next_class(self, classes: int) -> int:
        waiting: list[int] = self.state["classes"]
        if not waiting:
            waiting.extend(torch.randperm(classes).tolist())
        return waiting.pop()

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
