"""I-BAU: backdoor unlearning by an implicit hypergradient."""

from __future__ import annotations

import math
from functools import partial
from itertools import chain, count, islice
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..core.images import Images
from ..core.method import source
from ..core.modules import frozen, in_mode
from ..core.run import Run
from ..training.fit import constant, fit
from ..training.implicit import through_fixed_point
from .base.defense import Defense, Repair
from .base.needs import Need


class IBAU(Defense):
    """Trains the model to resist the worst universal perturbation (implicit hypergradient).

    Each round finds one perturbation for all images: a step of SGD for every batch, away from what
    the model answers now, less `penalty` times its squared length; then it is scaled into an L2
    ball of `radius`. A pass over the clean images with Adam follows, a `share` of each batch moved
    by it. The gradient counts that the perturbation follows the weights (`implicit`), as far as the
    same batch tells. Norms keep their statistics. Images are `[n, c, h, w]` in [0, 1]; moved ones
    may leave it, as in the paper.

    All constants are the authors'. Adam's rate decides: on their small VGG one round at their 0.001
    took a BadNets patch out, one at 1e-4 left it. BackdoorBench takes 1e-4 for PreActResNet18, and
    at 0.001 an earlier version of this wrecked a half-width one in a round: set `lr` there. The
    authors' code reads the implicit gradient off the first batch alone.
    """

    paper: ClassVar[str] = (
        "Zeng, Chen, Park, Mao, Jin, Jia: Adversarial Unlearning of Backdoors via Implicit "
        "Hypergradient, ICLR 2022, arXiv 2110.03735"
    )
    limits: ClassVar[str] = "costs clean accuracy, 3 points on average in published tables"
    needs: ClassVar[frozenset[Need]] = frozenset({"labels", "training"})

    epochs: int = Field(
        5,
        ge=0,
        description="rounds; one pass over the clean images each",
        json_schema_extra=source("authors' configuration: 5"),
    )
    lr: float = Field(
        1e-3,
        gt=0,
        description="learning rate of Adam (constant)",
        json_schema_extra=source("authors' configuration: 1e-3; BackdoorBench: 1e-4"),
    )
    batch: int = Field(
        100,
        ge=2,
        description="batch size",
        json_schema_extra=source("authors' configuration: 100"),
    )
    share: float = Field(
        0.01,
        gt=0,
        le=1,
        description="share of each batch that is perturbed (at least one image)",
        json_schema_extra=source("authors' configuration: 0.01"),
    )
    inner_steps: int | None = Field(
        None,
        ge=1,
        description="steps that find the perturbation, one batch each; null: one pass",
        json_schema_extra=source("authors' configuration: one pass over the batches"),
    )
    inner_lr: float = Field(
        10.0,
        gt=0,
        description="learning rate of the perturbation",
        json_schema_extra=source("authors' configuration: 10"),
    )
    penalty: float = Field(
        0.001,
        ge=0,
        description="weight of the perturbation's squared L2 norm",
        json_schema_extra=source("authors' configuration: 0.001"),
    )
    radius: float = Field(
        10.0,
        gt=0,
        description="largest L2 norm of the perturbation, pixels in [0, 1]",
        json_schema_extra=source("authors' notebook: 10; their script leaves it off"),
    )
    terms: int = Field(
        5,
        ge=0,
        description="terms of the implicit gradient's series",
        json_schema_extra=source("authors' configuration: K = 5"),
    )
    implicit_lr: float = Field(
        0.1,
        gt=0,
        description="learning rate inside the fixed point",
        json_schema_extra=source("authors' configuration: 0.1"),
    )

    def work(self, images: int, classes: int) -> float | None:
        """The perturbation, a pass with a second derivative, and the terms of the series."""
        return float(self.epochs * images * (4 + self.terms))

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model` after the rounds."""
        adam = torch.optim.Adam(model.parameters(), lr=self.lr)
        for number in range(self.epochs):
            away = self.perturbation(model, clean, run, number)
            fit(
                model,
                clean,
                run,
                epochs=1,
                lr=self.lr,
                batch=self.batch,
                crop=False,
                objective=partial(self._loss, away=away),
                optimizer=lambda _: adam,
                schedule=constant,
                stage=f"round {number + 1}",
            )
        return Repair(model)

    def perturbation(self, model: nn.Module, clean: Images, run: Run, number: int) -> Tensor:
        """The perturbation `[c, h, w]` that harms `model` most, found from none."""
        away = torch.zeros(clean.shape, device=run.device)
        shuffled = clean.sample(len(clean), run.rng(f"perturbation/{number}"))
        passes = (shuffled.batches(self.batch) for _ in count())
        steps = self.inner_steps or math.ceil(len(clean) / self.batch)
        with in_mode(model, train=False), frozen(model):
            for x, _ in islice(chain.from_iterable(passes), steps):
                away.requires_grad_()
                x = x.to(run.device)
                with run.autocast():
                    with torch.no_grad():
                        answers = model(x).argmax(1)
                    harm = self._harm(model, x, answers, away)
                (slope,) = torch.autograd.grad(harm, away)
                away = away.detach() + self.inner_lr * slope
        return away * min(1.0, self.radius / max(float(away.norm()), 1e-12))

    def _harm(self, model: nn.Module, x: Tensor, y: Tensor, away: Tensor) -> Tensor:
        lost = F.cross_entropy(model(x + away).float(), y)
        return lost - self.penalty * away.square().sum()

    def _loss(self, model: nn.Module, x: Tensor, y: Tensor, away: Tensor) -> Tensor:
        def outer(point: Tensor) -> Tensor:
            moved = max(1, int(self.share * len(x)))
            some = torch.cat([x[:moved] + point, x[moved:]])
            return F.cross_entropy(model(some).float(), y)

        def step(point: Tensor) -> Tensor:
            harm = self._harm(model, x, y, point)
            (slope,) = torch.autograd.grad(harm, point, create_graph=True)
            return point + self.implicit_lr * slope

        # Fused attention has no second derivative.
        with in_mode(model, train=False), sdpa_kernel(SDPBackend.MATH):
            return through_fixed_point(outer, step, away, self.terms)
