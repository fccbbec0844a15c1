"""Ways to the classes: one change of all images towards each class, in L2 balls that grow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.images import Images, to_float
from ...core.run import Run
from ...training.adversarial import Ball
from ...training.universal import REFERENCE, clipped

STEP = 0.4
"""Length of a step, of the radius."""

FIRST = 0.1
"""Length of the random start, of the first radius."""


@dataclass(eq=False)
class Way:
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


def seen(model: nn.Module, images: Images, run: Run) -> Seen:
    """The images, with the answers of the model."""
    x = to_float(images.pixels).to(run.device)
    with torch.no_grad():
        parts = [model(x[start : start + 256]).argmax(1) for start in range(0, len(x), 256)]
    return Seen(x, torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64))


@dataclass(frozen=True)
class Search:
    """How ways are gone: on how many images, through which radii, to which share of the others."""

    images: int
    held_out: int
    smallest: float
    growth: float
    radii: int
    steps: int
    reach: float

    def radius(self, place: int) -> float:
        """The radius of a place on the ladder."""
        return float(self.smallest * self.growth**place)

    def reached(self, way: Way) -> float:
        """The radius at which a way draws `reach`, between the last two that were tried."""
        *_, before, now = way.shares
        last = len(way.shares) - 2
        if now < self.reach:
            return self.radius(last + 1)
        part = (self.reach - before) / (now - before)
        return self.radius(last) * float(self.growth ** (part - 1))

    def gone(
        self,
        model: nn.Module,
        halves: tuple[Seen, Seen],
        labels: Sequence[int],
        enough: int,
        run: Run,
        advance: Callable[[int], None],
    ) -> list[Way]:
        """The ways to the classes `labels`, until `enough` of them draw `reach`.

        Ways are sought on the first half of the images; shares are counted on the other.
        """
        rng, (sought, _) = run.rng("start"), halves
        ways = [Way(label, self._start(sought, rng)) for label in labels]
        for place in range(self.radii):
            for way in [way for way in ways if way.shares[-1] < self.reach]:
                self._pushed(way, place, model, *halves, run)
                advance(1)
            if sum(way.shares[-1] >= self.reach for way in ways) >= enough:
                break
        return ways

    def _start(self, sought: Seen, rng: torch.Generator) -> Tensor:
        draw = torch.randn(sought.x[:1].shape, generator=rng).to(sought.x)
        start: Tensor = draw / draw.norm() * FIRST * self.smallest * sought.scale
        return start

    def _pushed(
        self, way: Way, place: int, model: nn.Module, sought: Seen, counted: Seen, run: Run
    ) -> None:
        """Moves `way` on at the radius of `place`, and counts what it draws."""
        x = sought.others(way.label, self.images)
        ball = Ball(self.radius(place) * sought.scale, "2")
        goal = torch.full((len(x),), way.label, device=x.device)
        for _ in range(self.steps if len(x) else 0):
            away = way.away.detach().requires_grad_()
            with run.autocast():
                told = model(clipped(x + away)).float()
            (slope,) = torch.autograd.grad(-F.cross_entropy(told, goal), away)
            step = STEP * ball.radius * ball.steepest(slope.float())
            way.away = ball.clipped(away.detach() + step)
        way.shares.append(share(model, counted.others(way.label, self.held_out), way, run))


def share(model: nn.Module, x: Tensor, way: Way, run: Run) -> float:
    """The share of the images `x` that the change of `way` sends to its class."""
    if not len(x):
        return 0.0
    with torch.no_grad(), run.autocast():
        now = model(clipped(x + way.away)).argmax(1)
    return float((now == way.label).float().mean())


def likeliest(model: nn.Module, images: Seen, most: int, run: Run) -> list[int]:
    """At most so many classes: those that are likeliest on the images of others."""
    with torch.no_grad(), run.autocast():
        likely = model(images.x).float().log_softmax(1)
    own = F.one_hot(images.answers, likely.shape[1]).bool()
    mean = likely.masked_fill(own, 0).sum(0) / (~own).sum(0).clamp_min(1)
    found: list[int] = sorted(mean.topk(min(most, likely.shape[1])).indices.tolist())
    return found
