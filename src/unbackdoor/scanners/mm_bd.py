"""MM-BD: a class whose largest possible margin stands out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ..core.images import Images
from ..core.method import source
from ..core.run import Run
from .base.head import Features, last_inputs
from .base.scanner import Finding, Scanner


class MMBD(Scanner):
    """For each class, the largest margin over all others that any image in [0, 1] reaches.

    Gradient ascent from `starts` images of noise. A backdoor leaves its target with a margin far
    above that of the other classes. The score is -log10 of a p-value: a gamma distribution is
    fitted to all margins but the largest, and says how rare the largest of so many is. Uses no
    real image, unless `orthogonal`: then what the class's own images have in common is taken out
    of the features first, so that a class that is easy by itself does not look like a target.

    Departures: fewer starts and steps, and steps of a fixed length.
    """

    paper: ClassVar[str] = (
        "Wang, Xiang, Miller, Kesidis: MM-BD, IEEE S&P 2024, arXiv 2205.06900; `orthogonal` after "
        "CSO, arXiv 2512.08129"
    )
    limits: ClassVar[str] = (
        "clean models with one easy class have a margin that stands out, too; weak with fewer than "
        "about eight classes; blind to backdoors with a target for every class"
    )
    statistic: ClassVar[str] = "largest margin found, in logits"
    needs_images: ClassVar[bool] = False

    starts: int = Field(
        6,
        ge=1,
        description="images of noise that the ascent starts from",
        json_schema_extra=source("ours: 6, for time, where the paper takes 30"),
    )
    steps: int = Field(
        60,
        ge=1,
        description="steps of the ascent",
        json_schema_extra=source("ours: 60, for time, where the paper takes 300"),
    )
    step: float = Field(
        1.0,
        gt=0,
        description="length of a step, L2, for images of 3x32x32",
        json_schema_extra=source("ours: relative to the size of the image"),
    )
    orthogonal: bool = Field(
        False,
        description="leave out the features that the class's own images have in common",
        json_schema_extra=source("ours: off; CSO takes these features out"),
    )

    def look(self, model: nn.Module, clean: Images, run: Run) -> Finding:
        """The largest margin of each class."""
        margins = []
        with (
            run.stage("margins", len(clean.classes) * self.steps) as advance,
            last_inputs(model, self.name()) as features,
        ):
            for label in range(len(clean.classes)):
                taken = self.shared(features, clean[clean.labels == label], run)
                margins.append(self.margin(features, label, taken, clean.shape, run, advance))
        values = torch.tensor(margins)
        rare = rarity(values)
        return Finding(values, rare, notes={"p_value_of_the_paper": 10**-rare})

    def shared(self, features: Features, own: Images, run: Run) -> Tensor | None:
        """The direction of the features that the class's own images have in common, length 1."""
        if not self.orthogonal or not len(own):
            return None
        with torch.no_grad():
            mean = features(next(own.batches(len(own)))[0].to(run.device))[0].float().mean(0)
        direction: Tensor = mean / mean.norm().clamp_min(1e-12)
        return direction

    def margin(
        self,
        features: Features,
        label: int,
        taken: Tensor | None,
        shape: tuple[int, int, int],
        run: Run,
        advance: Callable[[int], None],
    ) -> float:
        """The largest margin of the class `label` from any of the starts."""
        size = self.step * math.sqrt(math.prod(shape) / 3072)
        x = torch.rand((self.starts, *shape), generator=run.rng(f"start/{label}")).to(run.device)
        best = -math.inf
        for _ in range(self.steps):
            x.requires_grad_()
            seen, layer = features(x)
            seen = seen.float()
            if taken is not None:
                seen = seen - (seen @ taken)[:, None] * taken
            margins = _margins(nn.functional.linear(seen, layer.weight, layer.bias), label)
            best = max(best, float(margins.detach().max()))
            (slope,) = torch.autograd.grad(margins.sum(), x)
            length = slope.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
            x = (x.detach() + size * slope / length).clamp(0, 1)
            advance(1)
        return best


def _margins(logits: Tensor, label: int) -> Tensor:
    others = logits.clone()
    others[:, label] = -torch.inf
    margins: Tensor = logits[:, label] - others.amax(1)
    return margins


def rarity(values: Tensor) -> float:
    """-log10 of the chance that the largest of `values` is that large by accident.

    The others are fitted by a gamma distribution, by its moments.
    """
    ordered = values.double().clamp_min(1e-9).sort().values
    rest, top = ordered[:-1], ordered[-1]
    if len(rest) < 2:
        return 0.0
    mean, spread = rest.mean(), rest.var().clamp_min(1e-12)
    above = torch.special.gammaincc(mean**2 / spread, top * mean / spread)
    chance = -torch.expm1(len(ordered) * torch.log1p(-above.clamp(1e-300, 1 - 1e-15)))
    return float(-torch.log10(chance.clamp(1e-300, 1)))
