"""RNP: reconstructive neuron pruning, unlearn and recover."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.images import Images, to_float
from ..core.method import source
from ..core.run import Run
from ..network.norms import MaskedNorms, find_norms, prune_below_
from ..training.fit import constant, fit
from .base.defense import Augmented, Repair
from .base.needs import Need

TIE = 1e-3
"""How much of its mean over the steps is added to a mask."""

SCORE = "mask of a channel after clean images were recovered; the lowest are pruned"

SUSPECT = 0.7
"""The highest cut of the paper, which takes 0.3 to 0.7: a mask above it kept its channel."""


class RNP(Augmented):
    """Unlearns the clean task, recovers it with masks, and prunes the channels with low masks.

    A copy unlearns the clean images (its loss is driven up until its accuracy on them is at most
    `floor`); its backdoor outlives that. Then its weights are frozen and one mask in [0, 1] per
    norm channel learns to recover the clean images. Channels with a low mask are pruned from the
    model as it came. The paper takes 500 images: few steps a pass, after each of which unlearning
    may end. As in the authors' published implementation, the accuracy that ends it is that of the
    pass itself, in train mode, and gradients are not clipped: there the clipping stands before the
    gradients are there.

    By default the channels of the lowest masks go, a hundredth of all at a time and none above 0.7,
    until the accuracy on clean images held out from all of this (on all, where too few to hold any
    out) would fall by more than `cost`, which narrow networks pay in full: with 0.03 two of width
    16 kept an ASR of 48 and 62 %. In these a tenth of the masks end at 0, and to prune all of them
    at once costs ten points; so those that end equal are told apart by their mean over the steps.
    That is ours. A pruned channel loses its norm's weight and bias; the authors' code leaves the
    bias. Raises `ModelError` for a network without norms.
    """

    paper: ClassVar[str] = (
        "Li, Lyu, Ma, Koren, Lyu, Li, Jiang: Reconstructive Neuron Pruning for Backdoor Defense, "
        "ICML 2023, arXiv 2305.14876"
    )
    limits: ClassVar[str] = "depends much on when the unlearning stops; needs norms"
    needs: ClassVar[frozenset[Need]] = frozenset({"labels", "training", "norms"})

    unlearn_epochs: int = Field(
        20,
        ge=0,
        description="largest number of epochs of unlearning",
        json_schema_extra=source("authors' configuration: 20"),
    )
    unlearn_lr: float = Field(
        0.01,
        gt=0,
        description="learning rate of unlearning, a tenth of it from `drop` on",
        json_schema_extra=source("authors' configuration: 0.01"),
    )
    drop: int = Field(
        10,
        ge=0,
        description="epochs of unlearning before its learning rate falls to a tenth",
        json_schema_extra=source("authors' configuration: 10"),
    )
    momentum: float = Field(
        0.9,
        ge=0,
        lt=1,
        description="momentum of SGD, for the model and for the masks",
        json_schema_extra=source("authors' configuration: 0.9"),
    )
    weight_decay: float = Field(
        5e-4,
        ge=0,
        description="weight decay of unlearning; masks have none",
        json_schema_extra=source("authors' configuration: 5e-4"),
    )
    floor: float = Field(
        0.2,
        ge=0,
        le=1,
        description="clean accuracy at which unlearning stops",
        json_schema_extra=source("authors' configuration: 0.2"),
    )
    epochs: int = Field(
        20,
        ge=0,
        description="epochs that train the masks",
        json_schema_extra=source("authors' configuration: 20"),
    )
    lr: float = Field(
        0.2,
        gt=0,
        description="learning rate of the masks (constant)",
        json_schema_extra=source("authors' configuration: 0.2"),
    )
    weight: float = Field(
        0.2,
        gt=0,
        description="weight of the loss that trains the masks",
        json_schema_extra=source("authors' configuration: 0.2"),
    )
    batch: int = Field(
        128,
        ge=2,
        description="batch size",
        json_schema_extra=source("authors' configuration: 128"),
    )
    images: int = Field(
        500,
        ge=2,
        description="largest number of clean images used",
        json_schema_extra=source("authors' configuration: 500, 1 % of CIFAR-10"),
    )
    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="channels with a lower score are pruned; null: chosen on held-out images",
        json_schema_extra=source(
            "ours: chosen on held-out images, by number, up to 0.7; the paper takes 0.3 to 0.7"
        ),
    )
    cost: float = Field(
        0.1,
        ge=0,
        le=1,
        description="largest drop of held-out accuracy when the threshold is chosen",
        json_schema_extra=source("BackdoorBench: 0.1"),
    )

    def check(self, model: nn.Module, clean: Images) -> None:
        """Refuses a network without norms."""
        super().check(model, clean)
        find_norms(model, to_float(clean.pixels[:2]), self.name())

    def work(self, images: int, classes: int) -> float | None:
        """Epochs of some images."""
        return float(min(self.images, images) * (self.unlearn_epochs + self.epochs))

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model` without the channels whose masks fell."""
        rest, held = self.with_judges(clean, run, "threshold")
        learning = rest.sample(self.images, run.rng("unlearned images"))
        unlearned = copy.deepcopy(model)
        self.unlearn(unlearned, learning, run)
        masked = MaskedNorms(unlearned, find_norms(model, to_float(clean.pixels[:2]), self.name()))
        scores = self.recover(masked, learning, run)
        cuts = list(dict.fromkeys(min(cut, SUSPECT) for cut in lowest(scores)))
        pruned, threshold = prune_below_(model, scores, self.threshold, self.cost, held, run, cuts)
        return Repair(model, pruned, scores, {"threshold": threshold}, SCORE)

    def unlearn(self, model: nn.Module, clean: Images, run: Run) -> None:
        """Drives the loss of `model` on the clean images up, in place, to the `floor`."""
        right: list[Tensor] = []

        def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            told = net(x).float()
            right.append(told.argmax(1) == y)
            return -F.cross_entropy(told, y)

        def fallen(_: nn.Module) -> bool:
            share = float(torch.cat(right).float().mean())
            right.clear()
            return share <= self.floor

        fit(
            model,
            clean,
            run,
            epochs=self.unlearn_epochs,
            lr=self.unlearn_lr,
            batch=self.batch,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            flip=self.flip,
            schedule=lambda step, steps: 0.1 ** (step * self.unlearn_epochs >= steps * self.drop),
            objective=loss,
            until=fallen,
            stage="unlearning",
        )

    def recover(self, masked: MaskedNorms, clean: Images, run: Run) -> dict[str, Tensor]:
        """Learns the masks that bring the clean images back, and returns them.

        A little of their mean over the steps is added, so that equal ones have an order.
        """
        total: dict[str, Tensor] = {}
        steps = self.epochs * math.ceil(len(clean) / self.batch)

        def clip(_: nn.Module) -> None:
            masked.clip_()
            for name, mask in masked.learned().items():
                total[name] = total.get(name, 0) + mask / steps

        def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            return self.weight * F.cross_entropy(net(x).float(), y)

        fit(
            masked,
            clean,
            run,
            epochs=self.epochs,
            lr=self.lr,
            batch=self.batch,
            flip=self.flip,
            momentum=self.momentum,
            weight_decay=0.0,
            schedule=constant,
            objective=loss,
            after_step=clip,
            stage="masks",
        )
        return {name: mask + TIE * total.get(name, 0) for name, mask in masked.learned().items()}


def lowest(scores: Mapping[str, Tensor]) -> list[float]:
    """The scores below which a hundredth of all channels lie, two hundredths, ... up to a half."""
    every = torch.cat([score.flatten() for score in scores.values()]).sort().values
    return [float(every[len(every) * share // 100]) for share in range(1, 51)]
