"""Ways to the classes: one change of all images towards each class, at sizes that grow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.images import Images, to_float
from ...core.run import Run
from .changes import SIDE, Change, Losses

LEAST = 16
"""Of larger images fewer are used, for time, but not fewer than so many."""


@dataclass(eq=False)
class Way:
    """The change towards a class, and the share of the others' images it drew at each size."""

    label: int
    change: Change
    shares: list[float] = field(default_factory=lambda: [0.0])

    def size(self, reach: float) -> float:
        """The size at which it draws `reach`, between the last two that were tried.

        The last of all sizes where it does not.
        """
        sizes, (*_, before, now) = self.change.sizes, self.shares
        if now < reach:
            return sizes[-1]
        last = len(self.shares) - 2
        # Before the first one there would be one as much smaller as it is than the second.
        growth = sizes[last] / sizes[last - 1] if last else sizes[1] / sizes[0]
        return float(sizes[last] * growth ** ((reach - before) / (now - before) - 1))


@dataclass(frozen=True, eq=False)
class Seen:
    """Images, and the classes that the model gives them."""

    x: Tensor
    answers: Tensor

    def others(self, label: int, most: int) -> Tensor:
        """At most so many images that the model does not see as `label`; fewer of large ones."""
        most = min(most, max(LEAST, most * SIDE**2 // self.x[0, 0].numel()))
        return self.x[self.answers != label][:most]


def seen(model: nn.Module, images: Images, run: Run) -> Seen:
    """The images, with the answers of the model."""
    x = to_float(images.pixels).to(run.device)
    with torch.no_grad():
        parts = [model(x[start : start + 256]).argmax(1) for start in range(0, len(x), 256)]
    return Seen(x, torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64))


@dataclass(frozen=True)
class Search:
    """How ways are gone: on how many images, and to which share of those of other classes."""

    images: int
    held_out: int
    reach: float

    def gone(
        self,
        model: nn.Module,
        kind: type[Change],
        halves: tuple[Seen, Seen],
        labels: Sequence[int],
        run: Run,
        advance: Callable[[int], None],
    ) -> list[Way]:
        """The ways to the classes `labels`, until two of them draw `reach`.

        Ways are sought on the first half of the images; shares are counted on the other.
        """
        rng, (sought, counted) = run.rng("start"), halves
        ways = [Way(label, kind(sought.x, rng)) for label in labels]
        for size in kind.sizes:
            for way in [way for way in ways if way.shares[-1] < self.reach]:
                x = sought.others(way.label, self.images)
                if len(x):
                    way.change.fit(_losses(model, way.label, run), x, size)
                held_out = counted.others(way.label, self.held_out)
                way.shares.append(share(model, held_out, way, run))
                advance(1)
            if sum(way.shares[-1] >= self.reach for way in ways) >= 2:
                break
        return ways


def share(model: nn.Module, x: Tensor, way: Way, run: Run) -> float:
    """The share of the images `x` that the change of `way` sends to its class."""
    if not len(x):
        return 0.0
    with torch.no_grad(), run.autocast():
        now = model(way.change.applied(x)).argmax(1)
    return float((now == way.label).float().mean())


def likeliest(model: nn.Module, images: Seen, most: int, run: Run) -> list[int]:
    """At most so many classes: those that are likeliest on the images of others."""
    with torch.no_grad(), run.autocast():
        likely = model(images.x).float().log_softmax(1)
    own = F.one_hot(images.answers, likely.shape[1]).bool()
    mean = likely.masked_fill(own, 0).sum(0) / (~own).sum(0).clamp_min(1)
    found: list[int] = sorted(mean.topk(min(most, likely.shape[1])).indices.tolist())
    return found


def _losses(model: nn.Module, label: int, run: Run) -> Losses:
    def of(images: Tensor) -> Tensor:
        with run.autocast():
            told = model(images).float()
        return F.cross_entropy(
            told, told.new_full((len(told),), label, dtype=torch.int64), reduction="none"
        )

    return of
