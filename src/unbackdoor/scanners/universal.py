"""One change of all images that harms the model: how small it is, and where it sends them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.images import Images, to_float
from ..core.run import Run
from ..training.adversarial import Ball
from ..training.universal import REFERENCE, clipped
from .base.scanner import Finding, Scanner

STEP = 0.3
"""Length of a step, of the radius."""


class Universal(Scanner):
    """Looks for one small change of all images that sends them to one class, whichever it is.

    The change is added to every image and stays in an L2 ball. Its radius grows from `smallest` by
    the factor `growth`; at each radius, `steps` steps raise the loss on the model's own answers,
    and no class is asked for. A backdoored model often follows such a change to its target, at a
    radius at which a clean model keeps its answers. The score is minus the logarithm of the radius
    at which one class holds the share `reach` of the images of the others; between two radii it is
    interpolated. A class's number is the largest share of the other classes' images that it drew
    up to then.

    The cost does not depend on the number of classes. Radii are for images of 3x32x32 and grow
    with the root of the number of values.
    """

    paper: ClassVar[str] = (
        "this project's own; universal perturbations after Moosavi-Dezfooli et al., CVPR 2017, "
        "arXiv 1610.08401"
    )
    limits: ClassVar[str] = (
        "clean models have universal perturbations, too: only the radius tells, so it must be "
        "calibrated; blind to triggers that are no small added change, such as warps, and to "
        "backdoors with a target for every class"
    )
    statistic: ClassVar[str] = "share of the other classes' images that the change sends here"

    images: int = Field(128, ge=1, description="largest number of clean images in all")
    smallest: float = Field(0.35, gt=0, description="first radius, L2, pixels in [0, 1]")
    growth: float = Field(math.sqrt(2), gt=1, description="factor from one radius to the next")
    radii: int = Field(9, ge=1, description="number of radii that are tried")
    steps: int = Field(8, ge=1, description="steps of gradient ascent at each radius")
    reach: float = Field(
        0.5, gt=0, le=1, description="share of the other classes' images that counts as found"
    )

    def look(self, model: nn.Module, clean: Images, run: Run) -> Finding:
        """Where the change of each radius sends the images."""
        x = to_float(clean.pixels[: self.images]).to(run.device)
        with torch.no_grad():
            answers = model(x).float().argmax(1)
        before, radius = torch.zeros(len(clean.classes)), self.smallest
        away, last = torch.zeros_like(x[:1]), 0.0
        score = -math.log(self.smallest * self.growth**self.radii)
        for radius, away in self.found(model, x, answers, run):
            shares = drawn_to(model, clipped(x + away), answers, len(clean.classes))
            top = float(shares.max())
            if top >= self.reach:
                part = 1.0 if top == last else (self.reach - last) / (top - last)
                score = -math.log(radius) + (1 - part) * math.log(self.growth)
                before = shares
                break
            before, last = torch.maximum(before, shares), top
        notes = {"radius": math.exp(-score), "last_radius": radius}
        return Finding(before, score, change=away[0].cpu(), reach=float(before.max()), notes=notes)

    def found(
        self, model: nn.Module, x: Tensor, answers: Tensor, run: Run
    ) -> Iterator[tuple[float, Tensor]]:
        """Each radius, and a change `[1, c, h, w]` within it that raises the loss."""
        scale = math.sqrt(x[0].numel() / REFERENCE)
        draw = torch.randn(x[:1].shape, generator=run.rng("start")).to(x)
        away = draw / draw.norm() * 0.1 * self.smallest * scale
        with run.stage("universal perturbation", self.radii * self.steps) as advance:
            for place in range(self.radii):
                radius = self.smallest * self.growth**place
                ball = Ball(radius * scale, "2")
                for _ in range(self.steps):
                    away = away.detach().requires_grad_()
                    with run.autocast():
                        told = model(clipped(x + away)).float()
                    (slope,) = torch.autograd.grad(F.cross_entropy(told, answers), away)
                    step = STEP * ball.radius * ball.steepest(slope.float())
                    away = ball.clipped(away.detach() + step)
                    advance(1)
                yield radius, away


def drawn_to(model: nn.Module, x: Tensor, answers: Tensor, classes: int) -> Tensor:
    """The share `[classes]` of the other classes' images that go to each class now."""
    with torch.no_grad():
        now = model(x).float().argmax(1)
    moved = torch.bincount(now[now != answers], minlength=classes).cpu()
    others = len(x) - torch.bincount(answers, minlength=classes).cpu()
    return moved / others.clamp_min(1)
