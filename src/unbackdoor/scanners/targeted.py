"""The smallest change of all images that sends them to a class, for each class: does one lead?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.images import Images, to_float
from ..core.method import source
from ..core.run import Run
from ..training.adversarial import Ball
from ..training.universal import REFERENCE, clipped
from .base.scanner import Finding, Scanner

STEP = 0.4
"""Length of a step, of the radius."""

FIRST = 0.1
"""Length of the random start, of the first radius."""


class Targeted(Scanner):
    """Looks for a class that a much smaller change of all images leads to than to any other.

    One change for all images, in an L2 ball, for each class. The radius grows from `smallest` by
    the factor `growth`; at each radius, `steps` steps make the class likelier on one half of the
    images, and the other half shows what share goes there. A class's number is minus the logarithm
    of the radius at which it draws the share `reach`. The score is the lead of the first class
    over the second, the logarithm of the ratio of their radii: it compares the classes of one
    model with each other, so it is the same for networks that change easily and those that do not.

    The search ends with the second class. Of more than `most_classes` classes only those are tried
    that are likeliest on the images of others. Radii are for images of 3x32x32 and grow with the
    root of the number of values.
    """

    paper: ClassVar[str] = (
        "this project's own; the smallest trigger of each class after Neural Cleanse (Wang et al., "
        "IEEE S&P 2019), universal perturbations after Moosavi-Dezfooli et al., CVPR 2017, "
        "arXiv 1610.08401"
    )
    limits: ClassVar[str] = (
        "blind to a small patch of high contrast, whose L2 length is as large as that of natural "
        "changes, to triggers that are no added change, such as warps, to two targets that are as "
        "easy as each other, to backdoors with a target for every class, and, with more than "
        "`most_classes` classes, to a target that is unlikely on images of other classes"
    )
    statistic: ClassVar[str] = "minus the logarithm of the radius of the change that leads here"
    compares_classes: ClassVar[bool] = True

    images: int = Field(
        40,
        ge=1,
        description="images that a change is sought on, at most",
        json_schema_extra=source("ours: few, for time"),
    )
    held_out: int = Field(
        60,
        ge=1,
        description="other images that its share is counted on, at most",
        json_schema_extra=source("ours: a share to within a few percent"),
    )
    smallest: float = Field(
        0.25,
        gt=0,
        description="first radius, L2, pixels in [0, 1]",
        json_schema_extra=source("ours: below any change that a clean model obeys"),
    )
    growth: float = Field(
        math.sqrt(2),
        gt=1,
        description="factor from one radius to the next",
        json_schema_extra=source("ours: between two radii the share is interpolated"),
    )
    radii: int = Field(
        9,
        ge=1,
        description="number of radii that are tried",
        json_schema_extra=source("ours: up to a length that any model obeys"),
    )
    steps: int = Field(
        4,
        ge=1,
        description="steps of gradient ascent at each radius",
        json_schema_extra=source("ours: few, for time; each radius goes on from the last one"),
    )
    reach: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of the other classes' images that counts as found",
        json_schema_extra=source("ours: half of the images"),
    )
    most_classes: int = Field(
        20,
        ge=2,
        description="classes that are tried, at most",
        json_schema_extra=source("ours: for time"),
    )

    def look(self, model: nn.Module, clean: Images, run: Run) -> Finding:
        """The radius of each class, until two are found."""
        half = max(1, len(clean) // 2)
        sought, counted = (_seen(model, part, run) for part in (clean[:half], clean[half:]))
        rng = run.rng("start")
        paths = [
            Path(label, self._start(sought.x, rng))
            for label in self._tried(model, counted if len(counted.x) else sought, run)
        ]
        total = self.radii * len(paths)
        with run.stage("targeted change", total) as advance:
            for place in range(self.radii):
                open_ = [path for path in paths if path.shares[-1] < self.reach]
                for path in open_:
                    self._pushed(path, place, model, sought, counted, run)
                    advance(1)
                if len(paths) - sum(path.shares[-1] < self.reach for path in paths) >= 2:
                    break
        return self._found(paths, len(clean.classes), sought.scale)

    def _found(self, paths: list[Path], classes: int, scale: float) -> Finding:
        # A class that was not tried stands as one that no change led to.
        radii = torch.full((classes,), self._radius(self.radii))
        for path in paths:
            radii[path.label] = self._reached(path)
        first, second = radii.sort().values[:2].tolist()
        lead = min(paths, key=lambda path: float(radii[path.label]))
        return Finding(
            -radii.log(),
            math.log(second / first),
            change=lead.away[0].cpu(),
            reach=lead.shares[-1],
            notes={"radius": first, "second_radius": second},
        )

    def _radius(self, place: int) -> float:
        return float(self.smallest * self.growth**place)

    def _reached(self, path: Path) -> float:
        """The radius at which a path draws `reach`, between the last two that were tried."""
        *_, before, now = path.shares
        last = len(path.shares) - 2
        if now < self.reach:
            return self._radius(last + 1)
        part = (self.reach - before) / (now - before)
        return self._radius(last) * self.growth ** (part - 1)

    def _start(self, x: Tensor, rng: torch.Generator) -> Tensor:
        draw = torch.randn(x[:1].shape, generator=rng).to(x)
        scale = math.sqrt(x[0].numel() / REFERENCE)
        start: Tensor = draw / draw.norm() * FIRST * self.smallest * scale
        return start

    def _tried(self, model: nn.Module, seen: Seen, run: Run) -> list[int]:
        """The classes that are likeliest on the images of others."""
        with torch.no_grad(), run.autocast():
            likely = model(seen.x[: self.held_out]).float().log_softmax(1)
        own = F.one_hot(seen.answers[: self.held_out], likely.shape[1]).bool()
        mean = likely.masked_fill(own, 0).sum(0) / (~own).sum(0).clamp_min(1)
        return sorted(mean.topk(min(self.most_classes, likely.shape[1])).indices.tolist())

    def _pushed(
        self, path: Path, place: int, model: nn.Module, sought: Seen, counted: Seen, run: Run
    ) -> None:
        """Moves `path` on at the radius of `place`, and counts what it draws."""
        x = sought.others(path.label, self.images)
        ball = Ball(self._radius(place) * sought.scale, "2")
        goal = torch.full((len(x),), path.label, device=x.device)
        for _ in range(self.steps if len(x) else 0):
            away = path.away.detach().requires_grad_()
            with run.autocast():
                told = model(clipped(x + away)).float()
            (slope,) = torch.autograd.grad(-F.cross_entropy(told, goal), away)
            step = STEP * ball.radius * ball.steepest(slope.float())
            path.away = ball.clipped(away.detach() + step)
        shown = counted.others(path.label, self.held_out)
        with torch.no_grad(), run.autocast():
            now = model(clipped(shown + path.away)).argmax(1) if len(shown) else goal[:0]
        path.shares.append(float((now == path.label).float().mean()) if len(now) else 0.0)


@dataclass(eq=False)
class Path:
    """The change `[1, c, h, w]` towards a class, and the share it drew at each radius."""

    label: int
    away: Tensor
    shares: list[float] = field(default_factory=lambda: [0.0])


@dataclass(frozen=True, eq=False)
class Seen:
    """Images, and the classes that the model gives them; `scale` is how long a radius of 1 is."""

    x: Tensor
    answers: Tensor

    @property
    def scale(self) -> float:
        """The root of the number of values, relative to images of 3x32x32."""
        return math.sqrt(self.x[0].numel() / REFERENCE)

    def others(self, label: int, most: int) -> Tensor:
        """At most so many images that the model does not see as `label`."""
        return self.x[self.answers != label][:most]


def _seen(model: nn.Module, images: Images, run: Run) -> Seen:
    x = to_float(images.pixels).to(run.device)
    with torch.no_grad():
        parts = [model(x[start : start + 256]).argmax(1) for start in range(0, len(x), 256)]
    return Seen(x, torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64))
