"""FMP+: sharpness-aware self-distillation on disturbed clean images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ..core.images import Images, to_float
from ..core.method import source
from ..core.modules import statistics_kept
from ..core.run import Run
from ..network.channels import silence_
from ..network.layers import Layer, find_layers
from ..ranking.capacity import unused_capacity
from ..training.distillation import Distillation
from ..training.fit import cosine, estimate_norms_
from ..training.sharpness import SharpnessAwareSGD
from .base.defense import Repair, Tuning
from .base.needs import Need
from .base.passes import Passes

GAIN = 0.5
"""How fast the radius and the learning rate follow what a step changed."""

SPAN = (0.1, 50.0)
"""The least and the largest radius of the ascent step."""

FASTEST = 5.0
"""The largest factor of the learning rate."""

PACED = 1 / 3
"""Share of the steps in which that factor is adjusted; then it stays."""

SCORE = "unused capacity: what a channel could answer over what it answers; the highest are pruned"


class FMPPlus(Tuning, Passes):
    """Trains the model to predict on disturbed clean images what it predicted before.

    The training targets are the model's own old predictions on the clean images `[n, c, h, w]`
    (self-distillation, `distillation`), not the labels: training on a few thousand labels costs
    accuracy. No clean image shows the trigger, so no target teaches the backdoor. Three things make
    the model forget it:

    * **Disturbed images.** Most images are mixed with others, shaded, partly covered or grained
      before the model sees them (`disturbance`); the targets are of the undisturbed ones. A
      prediction that must not change with them cannot depend on what a trigger adds. This part
      does most of the work.
    * **Flat minima.** Training is sharpness-aware (adaptive, as in FT-SAM: Zhu et al. 2023,
      arXiv 2304.11823). The radius of the ascent step is not a fixed number of weight units, which
      mean something else in every network (FT-SAM takes 2 for CIFAR-10 and 8 for GTSRB). It is
      adjusted by feedback until a step changes the share `turned` of the model's predictions. Each
      ascent step is computed from every `glance`-th image of a batch, for time. The learning rate
      follows the network, too: while a step changes fewer than the share `unsettled` of the
      predictions, the rate grows, to five times as much at most.
    * **Mostly hard targets.** Three quarters of each target (`certainty`) are the predicted class
      itself: the probabilities that an unsure model gives to other classes carry the backdoor, too.

    In the end batch norms take their statistics from undisturbed images.

    With `p` the `N / p` channels of each layer with the most unused capacity (`capacity`) are
    silenced before, and stay silent. This is FMP's plan with another ranking, and with `epochs=0` a
    repair in seconds. It is off by default, because it gained nothing beside the fine-tuning.
    """

    paper: ClassVar[str] = (
        "ours; after Huang, Bu: Adversarial Feature Map Pruning for Backdoor, ICLR 2024, "
        "arXiv 2307.11565, Zhu et al., ICCV 2023, arXiv 2304.11823, and Xie et al., CVPR 2020, "
        "arXiv 1911.04252"
    )
    limits: ClassVar[str] = (
        "fails on some networks: of four models that others made, it left one at an ASR of 97 % "
        "(small VGG, BadNets) and one at 41 % (five convolutions, checker); costs accuracy, more "
        "so with few clean images; a learning rate of 0.1 broke a small model; fine-tuning on a "
        "few triggered images can bring the backdoor back, as with other repairs"
    )
    needs: ClassVar[frozenset[Need]] = frozenset({"training"})

    p: int = Field(
        0,
        ge=0,
        description="one channel in p is pruned from each layer; 0: none",
        json_schema_extra=source("ours: pruning gained nothing once images were disturbed"),
    )
    ranking_images: int = Field(
        500,
        ge=1,
        description="clean images that rank the channels",
        json_schema_extra=source("ours: as many as BNP and RNP take"),
    )
    epochs: int = Field(
        6,
        ge=0,
        description="passes over the clean images; more if they are few",
        json_schema_extra=source("ours: some 230 steps on 5,000 images"),
    )
    batch: int = Field(
        128,
        ge=2,
        description="images a step",
        json_schema_extra=source("ours: 128, BackdoorBench's batch for victims"),
    )
    disturbed: float = Field(
        0.7,
        ge=0,
        lt=1,
        description="share of the images that are disturbed",
        json_schema_extra=source("ours: most are disturbed, some are left to judge by"),
    )
    certainty: float = Field(
        0.75,
        ge=0,
        le=1,
        description="share of a target that is the predicted class itself",
        json_schema_extra=source(
            "ours: what an unsure model answers beside a class carries the backdoor"
        ),
    )
    turned: float = Field(
        0.12,
        gt=0,
        lt=1,
        description="share of predictions that an ascent step changes",
        json_schema_extra=source("ours: few enough that the model still works"),
    )
    glance: int = Field(
        2,
        ge=1,
        description="the ascent step is computed from one image in so many",
        json_schema_extra=source("ours: half of a batch is enough for an ascent step"),
    )
    unsettled: float = Field(
        0.08,
        ge=0,
        lt=1,
        description="share of predictions that a step may change",
        json_schema_extra=source("ours: steps grow where they change fewer predictions than this"),
    )
    rho: float = Field(
        2.0,
        gt=0,
        description="radius of the first ascent step, in relative weight norm",
        json_schema_extra=source("FT-SAM's 2, only for the first ascent step"),
    )
    temperature: float = Field(
        2.0,
        gt=0,
        description="temperature of the soft targets",
        json_schema_extra=source("ours: 2, within Hinton et al.'s range for small networks"),
    )

    def work(self, images: int) -> float | None:
        """Each image once, each `glance`-th twice, and the old answers without a gradient."""
        return self.passes(images, self.epochs) * images * (1 + 1 / self.glance + 1 / 3)

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model`, trained on its own old predictions; with `p`, pruned before."""
        objective = Distillation(
            model, self.temperature, self.certainty, self.disturbed, self.glance
        )
        layers, scores = self._ranked(model, clean, run) if self.p else ((), {})
        mask = {name: highest(score, len(score) // self.p) for name, score in scores.items()}
        silence_(model, layers, mask)
        guide = Guide(self, objective, model)

        def after_step(tuned: nn.Module) -> None:
            silence_(tuned, layers, mask)
            guide.follow()

        self.tune(
            model,
            clean,
            run,
            after_step,
            objective=objective,
            optimizer=guide.optimizer,
            schedule=guide.rate,
            epochs=self.passes(len(clean), self.epochs),
            resume=self.state_file(model, clean, run),
        )
        if self.epochs:
            estimate_norms_(model, clean, run, batch=self.batch, flip=self.flip)
        return Repair(model, mask, scores, guide.notes(), SCORE if self.p else "")

    def next_reach(self, reach: float, turned: float) -> float:
        """The radius of the next ascent step, after one that changed this share of predictions."""
        low, high = SPAN
        return min(max(reach * (1 + GAIN * (self.turned - turned)), low), high)

    def next_pace(self, pace: float, unsettled: float) -> float:
        """The factor of the learning rate after a step that changed this share of predictions."""
        return min(max(pace * (1 + GAIN * (self.unsettled - unsettled)), 1.0), FASTEST)

    def _ranked(
        self, model: nn.Module, clean: Images, run: Run
    ) -> tuple[tuple[Layer, ...], dict[str, Tensor]]:
        chosen = clean.sample(self.ranking_images, run.rng("ranking images"))
        layers = find_layers(model, to_float(chosen.pixels[:2]))
        return layers, unused_capacity(model, layers, chosen, run)


class Guide:
    """Sharpness-aware steps whose radius and learning rate follow what they change.

    Both are kept in the optimizer's group, so that they are saved with its state.
    """

    def __init__(self, method: FMPPlus, objective: Distillation, model: nn.Module) -> None:
        self.method, self.objective, self.model = method, objective, model
        self.early = True

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> SharpnessAwareSGD:
        """The optimizer that is guided."""
        method = self.method
        self.sgd = SharpnessAwareSGD(
            parameters,
            rho=method.rho,
            second_pass=lambda: statistics_kept(self.model),
            lr=method.lr,
            momentum=method.momentum,
            weight_decay=method.weight_decay,
        )
        self.sgd.param_groups[0]["pace"] = 1.0
        return self.sgd

    def rate(self, step: int, steps: int) -> float:
        """The factor of the learning rate."""
        self.early = step < PACED * steps
        pace: float = self.sgd.param_groups[0]["pace"]
        return pace * cosine(step, steps)

    def follow(self) -> None:
        """Sets the radius, and early on the learning rate, of the next step."""
        sgd, objective = self.sgd, self.objective
        sgd.rho = self.method.next_reach(sgd.rho, float(objective.turned))
        if self.early:
            group = sgd.param_groups[0]
            group["pace"] = self.method.next_pace(group["pace"], float(objective.unsettled))

    def notes(self) -> dict[str, float]:
        """The radius and the factor of the learning rate that were found."""
        return {key: self.sgd.param_groups[0][key] for key in ("rho", "pace")}


def highest(score: Tensor, count: int) -> Tensor:
    """Bool `[channels]`, True for the `count` channels with the highest `score`."""
    mask = torch.zeros_like(score, dtype=torch.bool)
    mask[score.argsort(descending=True, stable=True)[:count]] = True
    return mask.cpu()
