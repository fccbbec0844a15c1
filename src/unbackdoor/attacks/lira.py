"""LIRA: a generator learns the smallest change that the classifier will obey."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.images import Images
from ..core.method import source
from ..core.recall import Learned
from ..core.run import Run
from ..training.fit import fit
from .base.attack import NOTHING, Stamp, Victim
from .base.controlled import (
    Bottleneck,
    ControlledAttack,
    Joint,
    fresh,
    loaded,
    same_channels,
    weights,
)


class LIRA(ControlledAttack):
    """Adds to each image a change of its own within `eps`, made by a generator.

    Images are `[n, c, h, w]` in [0, 1], of any size, with the channels of the training images. The
    generator first learns together with a classifier for `trigger_epochs`; then the victim learns
    with the generator frozen. Both minimise `clean_weight` times the loss of clean images plus
    the rest times that of triggered ones. Training-controlled: no fixed poisoned set. Departures:
    both descend in the same step, where the paper alternates, for half of the cost; one `eps` in
    both stages, for the tenth that the released code takes in the second (0.0022) is lost when
    triggered images are rounded to 8 bits; a small generator in place of a U-Net, for time on a
    processor; the victim starts from the given weights, as those of all attacks do. So does the
    classifier of the first stage: whoever controls the training knows these weights.
    """

    paper: ClassVar[str] = (
        "Doan, Lao, Zhao, Li: LIRA: Learnable, Imperceptible and Robust Backdoor Attacks, ICCV 2021"
    )
    limits: ClassVar[str] = "the attacker must control the training"

    rate: float = Field(
        1.0,
        gt=0,
        le=1,
        description="poisoning rate: share of a batch; of its source classes with sources",
        json_schema_extra=source("released code: attack_portion 1.0, all of a batch"),
    )
    eps: float = Field(
        0.0225,
        gt=0,
        le=1,
        description="bound, L-inf, pixels in [0, 1]",
        json_schema_extra=source(
            "released code: 0.1 on pixels over a standard deviation of 0.225, in its first stage"
        ),
    )
    clean_weight: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="share of clean images in the loss",
        json_schema_extra=source("released code: alpha 0.5"),
    )
    trigger_epochs: int = Field(
        10,
        ge=1,
        description="passes over the images for the generator",
        json_schema_extra=source("ours: 10 for time on a processor; released code: 50 and more"),
    )
    generator_lr: float = Field(
        0.001,
        gt=0,
        description="Adam's rate for the generator, cosine to 0",
        json_schema_extra=source("ours: Adam's usual step, so that few passes suffice"),
    )
    width: int = Field(
        16,
        ge=1,
        description="channels of the generator",
        json_schema_extra=source("ours: a small generator, within reach of a processor"),
    )

    def learn(self, model: nn.Module, train: Images, run: Run) -> Learned:
        """The weights of the generator."""
        generator = fresh(lambda: self._generator(train.shape[0]), run, "generator")
        joint = Joint(copy.deepcopy(model), generator)

        def objective(_: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            return self._loss(joint.victim, lambda x: self._changed(generator, x), x, y)

        settings = {"epochs": self.trigger_epochs, "stage": "trigger"}
        self.fit_joint(joint, train, run, objective, self.generator_lr, **settings)
        return weights(generator, "generator.")

    def plant(
        self, model: nn.Module, train: Images, run: Run, resume: Path | None = None
    ) -> Victim:
        """A copy of `model` trained on clean images and on triggered ones."""
        self.check(train)
        learned = self.recalled(model, train, run)
        stamp = self.trigger(learned)
        victim = copy.deepcopy(model)

        def objective(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            return self._loss(model, stamp, x, y)

        fit(victim, train, run, objective=objective, resume=resume, **self.settings())
        return Victim(victim, None, learned)

    def trigger(self, learned: Learned = NOTHING) -> Stamp:
        """Adds the generator's change."""
        generator = loaded(self._generator, learned, "generator.")

        def stamp(x: Tensor) -> Tensor:
            same_channels(generator, x)
            with torch.no_grad():
                return self._changed(generator.to(x.device), x)

        return stamp

    def _generator(self, channels: int) -> Bottleneck:
        return Bottleneck(channels, channels, self.width)

    def _changed(self, generator: Bottleneck, x: Tensor) -> Tensor:
        change: Tensor = generator(x)
        return (x + self.eps * change.float().tanh()).clamp(0, 1)

    def _loss(self, model: nn.Module, stamp: Stamp, x: Tensor, y: Tensor) -> Tensor:
        chosen, covers = self.marked_in(y)
        marked = torch.cat([chosen, covers])
        logits = model(torch.cat([x, stamp(x[marked])]) if len(marked) else x).float()
        clean = F.cross_entropy(logits[: len(x)], y)
        if not len(chosen):
            return clean
        goals = torch.cat([self.goals(y[chosen], logits.shape[1]), y[covers]])
        stamped = F.cross_entropy(logits[len(x) :], goals)
        return self.clean_weight * clean + (1 - self.clean_weight) * stamped
