"""SAU: unlearning shared adversarial examples."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.images import Images
from ..core.method import source
from ..core.modules import frozen, in_mode
from ..core.run import Run
from ..training.adversarial import Ball, avoidance
from ..training.fit import constant, fit
from .base.defense import Defense, Repair
from .base.needs import Need


class SAU(Defense):
    """Unlearns adversarial examples that fool the model and its original in the same way.

    Within an L-inf ball around each clean image, projected gradient ascent looks for an example on
    which the model as it came and the model as it is now both err, and agree: the mean of the two
    losses times `error` less the Jensen-Shannon divergence of the two. A model's loss counts until
    it gives the example another class than the image, the divergence until both give the same other
    class; where that holds of all images, no further step is taken. Where the former model errs on
    an example, and gives it another class than the image, the probability of that class is pushed
    down, with weight `weight`, beside the cross-entropy on clean images. Norms keep their
    statistics, so examples meet the same network when they are unlearned as when they were found.

    All is as in the authors' published implementation, which crops and mirrors no image and starts
    with all of the ball's radius added to every pixel, but that there images may leave [0, 1].
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

    def work(self, images: int, classes: int) -> float | None:
        """Each step of an example goes through two networks; both kinds of images after it."""
        return self.epochs * images * (2 * self.steps + 2 + 4 / 3)

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model`, apart from its former self on what fooled it."""
        former = copy.deepcopy(model).eval().requires_grad_(False)

        def loss(tuned: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            shared = self.examples(tuned, former, x, y, torch.full_like(x, self.radius))
            with torch.no_grad():
                wrong, own = former(shared).argmax(1), former(x).argmax(1)
            with in_mode(tuned, train=False):
                natural = F.cross_entropy(tuned(x).float(), y)
                apart = avoidance(tuned(shared).float(), wrong)
            total: Tensor = natural + self.weight * (apart * ((wrong != y) & (wrong != own))).mean()
            return total

        fit(
            model,
            clean,
            run,
            epochs=self.epochs,
            lr=self.lr,
            batch=self.batch,
            crop=False,
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
        ball = Ball(self.radius, "inf")
        away = ball.clipped(start)
        with in_mode(model, train=False), frozen(model):
            with torch.no_grad():
                own = [net(x).argmax(1) for net in (model, former)]
            for _ in range(self.steps):
                moved = (x + away).clamp(0, 1).detach().requires_grad_()
                with torch.enable_grad():
                    told = [net(moved).float() for net in (model, former)]
                    gain, shared = self.gain(told, own, y)
                    (slope,) = torch.autograd.grad(gain, moved)
                away = ball.clipped(moved.detach() - x + self.step * slope.sign())
                if bool(shared.all()):
                    break
        return (x + away).clamp(0, 1).detach()

    def gain(
        self, told: Sequence[Tensor], own: Sequence[Tensor], y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(what the search climbs, which images are shared already).

        `told` are both models' logits `[n, classes]`, `own` their answers to the clean images.
        """
        fooled = [logits.argmax(1) != answers for logits, answers in zip(told, own, strict=True)]
        shared = fooled[0] & fooled[1] & (told[0].argmax(1) == told[1].argmax(1))
        lost = [
            (F.cross_entropy(logits, y, reduction="none") * ~done).sum()
            for logits, done in zip(told, fooled, strict=True)
        ]
        apart = (disagreement(told[0], told[1]) * ~shared).sum()
        return self.error * (lost[0] + lost[1]) / 2 - apart, shared


def disagreement(one: Tensor, other: Tensor) -> Tensor:
    """The Jensen-Shannon divergence `[n]` in nats of two models' logits `[n, classes]`."""
    logs = torch.stack([one, other]).log_softmax(2)
    middle = logs.exp().mean(0).clamp_min(torch.finfo(logs.dtype).tiny).log()
    return (logs.exp() * (logs - middle)).sum(2).mean(0)
