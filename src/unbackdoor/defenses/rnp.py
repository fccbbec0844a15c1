"""RNP: reconstructive neuron pruning, unlearn and recover."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ..core.images import Images, to_float
from ..core.measure import accuracy
from ..core.method import source
from ..core.run import Run
from ..network.norms import MaskedNorms, find_norms, prune_below_
from ..training.fit import Objective, constant, cross_entropy, fit
from .base.defense import Augmented, Repair
from .base.needs import Need

SCORE = "mean of a channel's mask while clean images were recovered; the lowest are pruned"


class RNP(Augmented):
    """Unlearns the clean task, recovers it with masks, and prunes the channels with low masks.

    A copy unlearns the clean images (its loss is driven up until its accuracy on them is at most
    `floor`); its backdoor outlives that. Then its weights are frozen and one mask in [0, 1] per
    norm channel learns to recover the clean images. Channels with a low score are pruned from the
    model as it came. The paper takes 500 images: few steps a pass, after each of which unlearning
    may end; on one victim five steps led from 78 % past the floor to chance.

    The score is the mean of a mask over all steps, not its end. After the authors' 20 epochs masks
    are 0 or 1, so that a cut by their end takes all of the fallen or none; the mean tells those
    that fell early, which harmed most, from those that fell late. By default channels go below
    the last of 0.05, 0.1, ... 0.95 before the accuracy on clean images held out from all of this
    falls by more than `cost` (0.1 in BackdoorBench: it cost width-16 victims up to 11 points of
    ACC).
    Raises `ModelError` for a network without norms.
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
        description="learning rate of unlearning (constant)",
        json_schema_extra=source("authors' configuration: 0.01"),
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
        json_schema_extra=source("ours: chosen on held-out images; the paper takes 0.3 to 0.7"),
    )
    cost: float = Field(
        0.03,
        ge=0,
        le=1,
        description="largest drop of held-out accuracy when the threshold is chosen",
        json_schema_extra=source("ours: 0.03, where BackdoorBench allows 0.1 at a cost of ACC"),
    )

    def check(self, model: nn.Module, clean: Images) -> None:
        """Refuses a network without norms."""
        super().check(model, clean)
        find_norms(model, to_float(clean.pixels[:2]), self.name())

    def work(self, images: int) -> float | None:
        """Epochs of some images."""
        return float(min(self.images, images) * (self.unlearn_epochs + self.epochs))

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model` without the channels whose masks fell."""
        rest, held = self.divided(clean, run, "threshold")
        learning = rest.sample(self.images, run.rng("unlearned images"))
        unlearned = copy.deepcopy(model)
        self.unlearn(unlearned, learning, run)
        masked = MaskedNorms(unlearned, find_norms(model, to_float(clean.pixels[:2]), self.name()))
        scores = self.recover(masked, learning, run)
        pruned, threshold = prune_below_(model, scores, self.threshold, self.cost, held, run)
        return Repair(model, pruned, scores, {"threshold": threshold}, SCORE)

    def unlearn(self, model: nn.Module, clean: Images, run: Run) -> None:
        """Drives the loss of `model` on the clean images up, in place, to the `floor`."""
        fit(
            model,
            clean,
            run,
            epochs=self.unlearn_epochs,
            lr=self.unlearn_lr,
            batch=self.batch,
            flip=self.flip,
            optimizer=lambda parameters: _BoundedSGD(parameters, lr=self.unlearn_lr, momentum=0.9),
            schedule=constant,
            objective=_times(-1.0),
            until=lambda now: accuracy(now, clean, run).value <= self.floor,
            stage="unlearning",
        )

    def recover(self, masked: MaskedNorms, clean: Images, run: Run) -> dict[str, Tensor]:
        """Learns the masks that bring the clean images back; returns each one's mean over steps."""
        seen: list[dict[str, Tensor]] = []

        def after_step(_: nn.Module) -> None:
            masked.clip_()
            seen.append({norm: mask.clone() for norm, mask in masked.learned().items()})

        fit(
            masked,
            clean,
            run,
            epochs=self.epochs,
            lr=self.lr,
            batch=self.batch,
            flip=self.flip,
            weight_decay=0.0,
            schedule=constant,
            objective=_times(self.weight),
            after_step=after_step,
            stage="masks",
        )
        seen = seen or [masked.learned()]
        return {norm: torch.stack([masks[norm] for masks in seen]).mean(0) for norm in seen[0]}


class _BoundedSGD(torch.optim.SGD):
    """SGD whose gradient is at most 20 long: a loss driven up has no end to stop at."""

    def step(self, closure: Any = None) -> Any:
        loss = closure()
        nn.utils.clip_grad_norm_(self.param_groups[0]["params"], 20.0)
        super().step()
        return loss


def _times(factor: float) -> Objective:
    plain = cross_entropy()

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return factor * plain(model, x, y)

    return loss
