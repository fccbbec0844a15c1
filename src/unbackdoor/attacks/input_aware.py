"""Input-aware: a generator gives each image a trigger that works on it alone."""

from __future__ import annotations

import copy
from functools import partial
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
    about,
    adam,
    fresh,
    loaded,
    same_channels,
    weights,
)


class InputAware(ControlledAttack):
    """Replaces a small part of each image by a pattern; two generators choose place and pattern.

    Images are `[n, c, h, w]` in [0, 1], of any size, with the channels of the training images. The
    mask covers the share `density` of the image where its generator's output is largest; that one
    learns first, to differ from image to image. Then pattern and victim learn together. A share
    `cross` of each batch gets the trigger of another image and keeps its label.
    Training-controlled: no fixed poisoned set. Departures: the paper holds the density by a
    penalty of weight 100, which can silence the mask; the generators are small, for time on a
    processor.
    """

    paper: ClassVar[str] = (
        "Nguyen, Tran: Input-Aware Dynamic Backdoor Attack, NeurIPS 2020, arXiv 2010.08138"
    )
    limits: ClassVar[str] = "the attacker must control the training; the patterns can be seen"

    cross: float = Field(
        0.1,
        gt=0,
        le=1,
        description="share of each batch with another's trigger",
        json_schema_extra=source("released code: 0.1 of a batch"),
    )
    density: float = Field(
        0.032,
        gt=0,
        lt=1,
        description="share of an image that the mask covers",
        json_schema_extra=source("released code: 0.032"),
    )
    diversity: float = Field(
        1.0,
        ge=0,
        description="weight of the triggers' variety",
        json_schema_extra=source("released code: weight 1"),
    )
    mask_epochs: int = Field(
        10,
        ge=1,
        description="passes over the images for the masks",
        json_schema_extra=source("ours: 10 for time on a processor; the released code: 25"),
    )
    generator_lr: float = Field(
        0.01,
        gt=0,
        description="Adam's rate for generators, cosine to 0",
        json_schema_extra=source("released code: 0.01"),
    )
    width: int = Field(
        16,
        ge=1,
        description="channels of the generators",
        json_schema_extra=source("ours: a small generator, within reach of a processor"),
    )

    def learn(self, model: nn.Module, train: Images, run: Run) -> Learned:
        """The weights of the mask generator."""
        masks = fresh(lambda: self._masks(train.shape[0]), run, "masks")

        def objective(_: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            return _sameness(x, self._mask(masks, x))

        settings = self.settings() | {"epochs": self.mask_epochs, "stage": "masks"}
        with_adam = partial(adam, lr=self.generator_lr)
        fit(masks, train, run, objective=objective, optimizer=with_adam, **settings)
        return weights(masks, "masks.")

    def plant(
        self, model: nn.Module, train: Images, run: Run, resume: Path | None = None
    ) -> Victim:
        """A copy of `model` trained together with the pattern generator."""
        self.check(train)
        learned = self.recalled(model, train, run)
        masks = loaded(self._masks, learned, "masks.").to(run.device)
        patterns = fresh(lambda: self._patterns(train.shape[0]), run, "patterns")
        joint = Joint(copy.deepcopy(model), patterns)

        def objective(_: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            return self._loss(joint, masks, x, y)

        self.fit_joint(joint, train, run, objective, self.generator_lr, resume=resume)
        return Victim(joint.victim, None, {**learned, **weights(patterns, "patterns.")})

    def trigger(self, learned: Learned = NOTHING) -> Stamp:
        """Puts each image's pattern where its mask says."""
        masks = loaded(self._masks, learned, "masks.")
        patterns = loaded(self._patterns, learned, "patterns.")

        def stamp(x: Tensor) -> Tensor:
            same_channels(masks, x)
            with torch.no_grad():
                mask = self._mask(masks.to(x.device), x)
                return torch.lerp(x, patterns.to(x.device)(x).sigmoid(), mask)

        return stamp

    def _masks(self, channels: int) -> Bottleneck:
        return Bottleneck(channels, 1, self.width)

    def _patterns(self, channels: int) -> Bottleneck:
        return Bottleneck(channels, channels, self.width)

    def _mask(self, masks: Bottleneck, x: Tensor) -> Tensor:
        """A mask `[n, 1, h, w]` of 0 and 1, with the share `density` of ones in each image."""
        height = masks(x).float().flatten(1)
        covered = max(1, round(self.density * height.shape[1]))
        highest = height.topk(covered).indices
        mask = torch.zeros_like(height).scatter_(1, highest, 1.0)
        # Ones and zeros have no slope; the generator learns by that of their smooth stand-in.
        smooth = height.softmax(1) * covered
        learning: Tensor = mask + smooth - smooth.detach()
        return learning.view(-1, 1, *x.shape[2:])

    def _loss(self, joint: Joint, masks: Bottleneck, x: Tensor, y: Tensor) -> Tensor:
        chosen, covers = self.marked_in(y)
        marked = torch.cat([chosen, covers])
        crossed = torch.arange(len(y), device=y.device)
        # A batch of one image holds no other one whose trigger it could get.
        wanted = about(self.cross * len(y)) if len(y) > 1 else 0
        crossed = crossed[~torch.isin(crossed, marked)][:wanted]
        pattern = joint.parts(x).float().sigmoid()
        with torch.no_grad():
            mask = self._mask(masks, x)
        givers = (crossed + 1) % len(y)
        inputs, goals = x.clone(), y.clone()
        inputs[marked] = torch.lerp(x[marked], pattern[marked], mask[marked])
        inputs[crossed] = torch.lerp(x[crossed], pattern[givers], mask[givers])
        logits = joint(inputs).float()
        goals[chosen] = self.goals(y[chosen], logits.shape[1])
        return F.cross_entropy(logits, goals) + self.diversity * _sameness(x, pattern)


def _sameness(x: Tensor, made: Tensor) -> Tensor:
    """How far apart neighbours in the batch are over how far apart what was `made` of them is."""
    apart = (x - x.roll(1, 0)).square().flatten(1).mean(1).add(1e-12).sqrt()
    made_apart = (made - made.roll(1, 0)).square().flatten(1).mean(1).add(1e-12).sqrt()
    return (apart / (made_apart + 1e-7)).mean()
