"""SAU: unlearning shared adversarial examples."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.images import Images
from ..core.method import source
from ..core.modules import frozen, in_mode
from ..core.run import Run
from ..training.adversarial import Ball, avoidance, climbed
from ..training.fit import constant, fit
from .base.defense import Augmented, Repair
from .base.needs import Need


class SAU(Augmented):
    """Unlearns adversarial examples that fool the model and its original in the same way.

    Within an L-inf ball around each clean image, projected gradient ascent looks for an example on
    which the model as it came and the model as it is now both err, and agree: the mean of the two
    losses times `error` less the Jensen-Shannon divergence of the two. Where the former model errs
    on it, the probability of its wrong class is pushed down, with weight `weight`, beside the
    cross-entropy on clean images. Norms keep their statistics, so examples meet the same network
    when they are unlearned as when they were found.

    All constants are those of the authors' published implementation, and so is the start: all of
    the ball's radius is added to every pixel. There images may leave [0, 1], here they stay.
    """

    paper: ClassVar[str] = (
        "Wei, Zhang, Zha, Wu: Shared Adversarial Unlearning: Backdoor Mitigation by Unlearning "
        "Shared Adversarial Examples, NeurIPS 2023, arXiv 2307.10562"
    )
    limits: ClassVar[str] = (
        "each step takes twelve times as long; triggers far outside the ball are not removed"
    )
    needs: ClassVar[frozenset[Need]] = frozenset({"labels", "training"})

    epochs: int = Field(
        100,
        ge=0,
        description="epochs on the clean images",
        json_schema_extra=source("authors' configuration: 100 rounds"),
    )
    lr: float = Field(
        1e-4,
        gt=0,
        description="learning rate of Adam (constant)",
        json_schema_extra=source("authors' configuration: 1e-4"),
    )
    batch: int = Field(
        256,
        ge=2,
        description="batch size",
        json_schema_extra=source("authors' configuration: 256"),
    )
    radius: float = Field(
        0.2,
        gt=0,
        le=1,
        description="L-inf radius, also of the start (pixels in [0, 1])",
        json_schema_extra=source("authors' configuration: 0.2"),
    )
    step: float = Field(
        0.2,
        gt=0,
        le=1,
        description="L-inf step size (pixels in [0, 1])",
        json_schema_extra=source("authors' configuration: 0.2"),
    )
    steps: int = Field(
        5,
        ge=1,
        description="steps that find the adversarial examples",
        json_schema_extra=source("authors' configuration: 5"),
    )
    error: float = Field(
        0.01,
        ge=0,
        description="weight of the classification losses in that search",
        json_schema_extra=source("authors' configuration: 0.01"),
    )
    weight: float = Field(
        1.0,
        ge=0,
        description="weight of the loss on shared adversarial examples",
        json_schema_extra=source("authors' configuration: 1"),
    )

    def work(self, images: int) -> float | None:
        """Each step of an example goes through two networks; both kinds of images after it."""
        return self.epochs * images * (2 * self.steps + 2 + 1 / 3)

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model`, apart from its former self on what fooled it."""
        former = copy.deepcopy(model).eval().requires_grad_(False)

        def loss(tuned: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            shared = self.examples(tuned, former, x, y, torch.full_like(x, self.radius))
            with torch.no_grad():
                wrong = former(shared).argmax(1)
            with in_mode(tuned, train=False):
                natural = F.cross_entropy(tuned(x).float(), y)
                apart = avoidance(tuned(shared).float(), wrong)
            total: Tensor = natural + self.weight * (apart * (wrong != y)).mean()
            return total

        fit(
            model,
            clean,
            run,
            epochs=self.epochs,
            lr=self.lr,
            batch=self.batch,
            flip=self.flip,
            objective=loss,
            optimizer=lambda parameters: torch.optim.Adam(parameters, lr=self.lr),
            schedule=constant,
            stage="unlearning",
        )
        return Repair(model)

    def examples(
        self, model: nn.Module, former: nn.Module, x: Tensor, y: Tensor, start: Tensor
    ) -> Tensor:
        """The images `x` moved from `start` on to where both models err and agree."""

        def gain(moved: Tensor) -> Tensor:
            now, then = model(moved).float(), former(moved).float()
            lost = F.cross_entropy(now, y, reduction="sum")
            lost = lost + F.cross_entropy(then, y, reduction="sum")
            return self.error * lost / 2 - disagreement(now, then).sum()

        with in_mode(model, train=False), frozen(model):
            ball = Ball(self.radius, "inf")
            return climbed(x, gain, ball, step=self.step, steps=self.steps, start=start)


def disagreement(one: Tensor, other: Tensor) -> Tensor:
    """The Jensen-Shannon divergence `[n]` in nats of two models' logits `[n, classes]`."""
    logs = torch.stack([one, other]).log_softmax(2)
    middle = logs.exp().mean(0).clamp_min(torch.finfo(logs.dtype).tiny).log()
    return (logs.exp() * (logs - middle)).sum(2).mean(0)
