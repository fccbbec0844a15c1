"""The smallest change of all images that sends them to one class: L2 balls that grow."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.run import Run
from ...training.adversarial import Ball
from ...training.universal import REFERENCE, clipped

STEP = 0.3
"""Length of a step, of the radius."""


@dataclass(frozen=True)
class Ladder:
    """The radii that are tried, the steps at each, and the share of images that counts as found.

    Radii are L2 for images of 3x32x32 with values in [0, 1], and grow with the root of the number
    of values.
    """

    smallest: float
    growth: float
    radii: int
    steps: int
    reach: float


@dataclass(frozen=True, eq=False)
class Change:
    """A change `[c, h, w]` of all images, its `radius`, and the `shares` `[classes]` it draws.

    The radius is interpolated between the last two that were tried. Where none was large enough it
    is one step above the largest. A share is that of the other classes' images.
    """

    away: Tensor
    radius: float
    shares: Tensor


def smallest_change(
    model: nn.Module,
    x: Tensor,
    ladder: Ladder,
    run: Run,
    rng: torch.Generator,
    advance: Callable[[int], None],
    goal: int | None = None,
) -> Change:
    """The smallest change of the images `x` found that sends them to one class, or to `goal`.

    Without a `goal` each step raises the loss on the model's own answers, wherever that leads.
    """
    with torch.no_grad():
        first = model(x).float()
    answers, classes = first.argmax(1), first.shape[1]
    wanted = answers if goal is None else torch.full_like(answers, goal)
    scale, last = math.sqrt(x[0].numel() / REFERENCE), 0.0
    draw = torch.randn(x[:1].shape, generator=rng).to(x)
    away = draw / draw.norm() * 0.1 * ladder.smallest * scale
    for place in range(ladder.radii):
        radius = ladder.smallest * ladder.growth**place
        ball = Ball(radius * scale, "2")
        for _ in range(ladder.steps):
            away = away.detach().requires_grad_()
            with run.autocast():
                told = model(clipped(x + away)).float()
            loss = F.cross_entropy(told, wanted)
            (slope,) = torch.autograd.grad(loss if goal is None else -loss, away)
            away = ball.clipped(away.detach() + STEP * ball.radius * ball.steepest(slope.float()))
            advance(1)
        shares = _drawn_to(model, clipped(x + away), answers, classes)
        top = float(shares.max() if goal is None else shares[goal])
        if top >= ladder.reach:
            part = (ladder.reach - last) / max(top - last, 1e-9)
            advance(ladder.steps * (ladder.radii - place - 1))
            return Change(away[0].cpu(), radius * ladder.growth ** (min(part, 1.0) - 1), shares)
        last = top
    return Change(away[0].cpu(), radius * ladder.growth, shares)


def _drawn_to(model: nn.Module, x: Tensor, answers: Tensor, classes: int) -> Tensor:
    """The share `[classes]` of the other classes' images that go to each class now."""
    with torch.no_grad():
        now = model(x).float().argmax(1)
    moved = torch.bincount(now[now != answers], minlength=classes).cpu()
    others = len(x) - torch.bincount(answers, minlength=classes).cpu()
    return moved / others.clamp_min(1)
