"""The smallest change of the features that sends all images to a class."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ..core.images import Images
from ..core.method import source
from ..core.run import Run
from .base.head import head_of
from .base.scanner import Finding, Scanner, outlying

POWER, SAFE = 50, 1.02
"""Rounds of the power iteration, and what its result may be too small by."""


class Latent(Scanner):
    """For each class, the smallest change of the last features that sends all images there.

    A convex quadratic programme with one constraint for each other class: with weights w and
    features f it is the shortest s with (w_k - w_j) s >= -min over images of (w_k - w_j) f. A class
    that needs an unusually short one is suspect. Takes a second.

    Departures: a low quantile (`quantile`) stands for the minimum over images, so that no single
    odd image decides; biases of the last layer count; a class's own images do not.
    """

    paper: ClassVar[str] = "Iwahana et al. 2025, arXiv 2511.08944"
    limits: ClassVar[str] = (
        "sees the last features only, not whether any change of an image leads there; blind to "
        "backdoors with a target for every class"
    )
    statistic: ClassVar[str] = "1 / length of the change of the features that sends images there"

    quantile: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="share of the images that the change may miss",
        json_schema_extra=source("ours: a few images may hold out"),
    )
    rounds: int = Field(
        500,
        ge=1,
        description="rounds of the solver",
        json_schema_extra=source("ours: enough for the solver to settle"),
    )

    def look(self, model: nn.Module, clean: Images, run: Run) -> Finding:
        """The length of the shortest change for each class."""
        head = head_of(model, clean, run, self.name())
        logits = head.features @ head.weight.T + head.bias
        with run.stage("features", self.rounds) as advance:
            lengths = shortest(head.weight, self.needed(logits), self.rounds, advance)
        values = 1 / lengths.clamp_min(1e-6)
        return Finding(values, outlying(values.log()))

    def needed(self, logits: Tensor) -> Tensor:
        """By how much each class (row) must gain on each other one; inf where no image is left."""
        labels, rows = logits.argmax(1), []
        for label in range(logits.shape[1]):
            others = logits[labels != label]
            lead = others[:, [label]] - others
            if len(others):
                rows.append(-lead.quantile(self.quantile, dim=0))
            else:
                rows.append(torch.full_like(logits[0], torch.inf))
        return torch.stack(rows)


def shortest(
    weight: Tensor, needed: Tensor, rounds: int, advance: Callable[[int], None] = lambda _: None
) -> Tensor:
    """For each class k the length of the shortest s with (w_k - w_j) s >= needed[k, j], all j.

    By its dual, min over l >= 0 of |rows' l|^2 / 2 - needed' l with s = rows' l, and accelerated
    projected gradient (Beck & Teboulle 2009, FISTA), for all classes at once. The matrix of a
    class is never made: all of them are sums of products of the same `weight` `[classes, n]`.
    """
    wanted = needed.double().fill_diagonal_(0)
    possible = torch.isfinite(wanted).all(1)
    wanted = wanted.where(possible[:, None], 0.0)
    products = weight.double() @ weight.double().T

    def pulled(force: Tensor) -> Tensor:
        """What the matrix of each class makes of its row of `force`."""
        whole, mixed = force.sum(1, keepdim=True), force @ products
        own = whole * products.diagonal()[:, None] - mixed.diagonal()[:, None]
        found: Tensor = (own - whole * products + mixed).fill_diagonal_(0)
        return found

    step = 1 / _norms(pulled, wanted)
    force = ahead = torch.zeros_like(wanted)
    pace = 1.0
    for _ in range(rounds):
        moved = (ahead - step * (pulled(ahead) - wanted)).clamp_min(0).fill_diagonal_(0)
        faster = (1 + (1 + 4 * pace**2) ** 0.5) / 2
        ahead, force = moved + (pace - 1) / faster * (moved - force), moved
        pace = faster
        advance(1)
    lengths: Tensor = (force * pulled(force)).sum(1).clamp_min(0).sqrt()
    return lengths.where(possible, torch.inf).float()


def _norms(pulled: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """A little more than the largest eigenvalue of the matrix of each class `[classes, 1]`."""
    vector = torch.ones_like(like).fill_diagonal_(0)
    for _ in range(POWER):
        vector = pulled(vector / vector.norm(dim=1, keepdim=True).clamp_min(1e-30))
    largest: Tensor = SAFE * vector.norm(dim=1, keepdim=True)
    return largest.clamp_min(1e-12)
