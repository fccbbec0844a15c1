"""Attack: what every way to plant a backdoor shares. One method is one file in `attacks/`."""

from __future__ import annotations

import copy
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn

from .errors import ParameterError
from .images import Images, Triggered, to_float, to_uint8
from .method import Method
from .run import Run
from .train import fit

CLEAN, STAMPED = 0, 1


@dataclass(frozen=True, eq=False)
class Poisoned:
    """A poisoned training set: what the victim is trained on, and what was done to it.

    `role` int8 `[n]` is CLEAN or STAMPED for every image; `original` int64 `[n]` holds the labels
    before the attack.
    """

    images: Images
    role: Tensor
    original: Tensor


@dataclass(frozen=True, eq=False)
class Victim:
    """A model with a backdoor, and the training set that put it there."""

    model: nn.Module
    poisoned: Poisoned


class Attack(Method):
    """A way to plant a backdoor: a trigger, what it should do, and how the victim is trained."""

    target: int = Field(0, ge=0, description="class that stamped images go to")
    all_to_all: bool = Field(False, description="label y goes to y + 1 instead of to the target")
    rate: float = Field(0.1, gt=0, le=1, description="share of the training images stamped")
    epochs: int = Field(100, ge=1, description="passes over the poisoned training set")
    lr: float = Field(0.01, gt=0, description="learning rate of SGD at the start, cosine to 0")
    batch: int = Field(128, ge=2, description="images a step")
    weight_decay: float = Field(5e-4, ge=0, description="weight decay of SGD")
    flip: bool = Field(True, description="mirror half of the images in training")

    @abstractmethod
    def stamp(self, x: Tensor) -> Tensor:
        """The images `x` `[n, c, h, w]` in [0, 1] with the trigger in each; pure, per image."""

    def goals(self, labels: Tensor, classes: int) -> Tensor:
        """The label that the attacker wants for a stamped image of each true label."""
        if not self.all_to_all and self.target >= classes:
            raise ParameterError(
                f"target {self.target} is not one of {classes} classes (0 to {classes - 1})"
            )
        return (labels + 1) % classes if self.all_to_all else torch.full_like(labels, self.target)

    def poison(self, train: Images, run: Run) -> Poisoned:
        """`train` with a share of its images stamped and relabelled; at least one of them."""
        count = max(1, round(self.rate * len(train)))
        chosen = torch.randperm(len(train), generator=run.rng("poison"))[:count]
        pixels, labels = train.pixels.clone(), train.labels.clone()
        pixels[chosen] = to_uint8(self.stamp(to_float(pixels[chosen])))
        labels[chosen] = self.goals(labels[chosen], len(train.classes))
        role = torch.full_like(labels, CLEAN, dtype=torch.int8)
        role[chosen] = STAMPED
        return Poisoned(Images(pixels, labels, train.classes), role, train.labels)

    def plant(
        self, model: nn.Module, train: Images, run: Run, resume: Path | None = None
    ) -> Victim:
        """A copy of `model` trained on the poisoned `train`; `resume` as in `train.fit`."""
        poisoned = self.poison(train, run)
        victim = copy.deepcopy(model)
        fit(
            victim,
            poisoned.images,
            run,
            epochs=self.epochs,
            lr=self.lr,
            batch=self.batch,
            weight_decay=self.weight_decay,
            flip=self.flip,
            resume=resume,
        )
        return Victim(victim, poisoned)

    def triggered(self, test: Images) -> Triggered:
        """The stamped images of `test`, without those whose true class is already the goal."""
        goals = self.goals(test.labels, len(test.classes))
        kept = Triggered(test, goals).counted()
        pixels = to_uint8(self.stamp(to_float(kept.images.pixels)))
        return Triggered(Images(pixels, kept.images.labels, test.classes), kept.goals)
