"""FMP+: the model teaches a flat copy of itself its answers, whatever disturbs the images."""

from __future__ import annotations

import math
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

GAIN = 0.5
"""How soon reach and pace follow: a reach that turns nothing grows by a ninth a step."""

SPAN = (0.1, 50.0)
"""The least and the largest reach."""

FASTEST = 5.0
"""The largest pace: what the learning rate is multiplied by."""

PACED = 1 / 3
"""Share of the steps in which the pace is found; then it stays."""

SCORE = "unused capacity: what a channel could answer over what it answers; the highest are pruned"


class FMPPlus(Tuning):
    """Trains the model to answer clean images as it did, though they are disturbed.

    The lesson is the model's own old answer to each clean image `[n, c, h, w]` (`distillation`),
    not the label: a few thousand labels cost accuracy, its own answers do not. No clean image
    shows the trigger, so no answer teaches the backdoor. Three things make the model forget it:

    * Most images are disturbed before the model sees them, but not for the teacher: mixed with
      others, shaded, partly covered, grained (`disturbance`). An answer that must not change with
      them does not hang on what a trigger adds. That undoes what is spread over the image.
    * Steps ask for a flat minimum (adaptive, as in FT-SAM: Zhu et al. 2023, arXiv 2304.11823),
      which leaves no room for what clean images do not need: without disturbances, by plain steps
      on soft answers, a patch stayed (BadNets, ASR 78). With them such steps do nearly as well
      (`docs/ablations.md`). How far a step climbs is not set in units of weights, which
      mean something else in every network (FT-SAM takes 2 for CIFAR-10 and 8 for GTSRB): it
      reaches as far as turns over the share `turned` of the model's answers, found by feedback.
      Where to is found from each `glance`-th image of a batch, for time. Nor is the learning rate
      the same for every network: where steps unsettle fewer than the share `unsettled` of its
      answers, as in one that is sure of them, they grow, to five times as much at most.
    * Three quarters of each lesson are the answered class itself: what an unsure model answers
      beside it carries the backdoor, too.

    In the end batch norms take their statistics from undisturbed images.

    With `p` the `N / p` channels of each layer with the most unused capacity (`capacity`) are
    silenced before, and stay silent. That is FMP's plan with a ranking that finds backdoor
    channels, and with `epochs=0` a repair in seconds. It is off by default: tried before images
    were disturbed, and healed after, it gained nothing.
    """

    paper: ClassVar[str] = (
        "ours; after Huang, Bu: Adversarial Feature Map Pruning for Backdoor, ICLR 2024, "
        "arXiv 2307.11565, Zhu et al., ICCV 2023, arXiv 2304.11823, and Xie et al., CVPR 2020, "
        "arXiv 1911.04252"
    )
    limits: ClassVar[str] = (
        "left one LF on CIFAR-10 at an ASR of 13 %, where a clean model had 9 %, LF on GTSRB, and "
        "BadNets in a model of five epochs, at 8 %; four clean models lost 0.5 to 1.3 points of "
        "ACC, poisoned ones up to 2.3; a learning rate of 0.1 broke a small model; retuning on a "
        "few stamped images can bring the backdoor back, as with other repairs"
    )

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
        description="passes over the clean images, if they are enough",
        json_schema_extra=source("ours: some 230 steps on 5,000 images"),
    )
    enough_images: int = Field(
        5000,
        ge=1,
        description="over fewer images as many passes more as it takes",
        json_schema_extra=source("ours: 5,000, a tenth of CIFAR-10"),
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
        description="share of a lesson that is the answered class itself",
        json_schema_extra=source(
            "ours: what an unsure model answers beside a class carries the backdoor"
        ),
    )
    turned: float = Field(
        0.12,
        gt=0,
        lt=1,
        description="share of answers that a climb turns over",
        json_schema_extra=source(
            "ours: few enough that the model still works; docs/ablations.md varies it"
        ),
    )
    glance: int = Field(
        2,
        ge=1,
        description="a climb is found from one image in so many",
        json_schema_extra=source("ours: half of a batch tells where to climb"),
    )
    unsettled: float = Field(
        0.08,
        ge=0,
        lt=1,
        description="share of answers that steps may turn",
        json_schema_extra=source("ours: steps grow where they turn fewer answers than this"),
    )
    rho: float = Field(
        2.0,
        gt=0,
        description="reach of the first climb, in relative weight norm",
        json_schema_extra=source("FT-SAM's 2, only where the first climb starts"),
    )
    temperature: float = Field(
        2.0,
        gt=0,
        description="softness of the answers that are learned",
        json_schema_extra=source("ours: 2, within Hinton et al.'s range for small networks"),
    )

    def work(self, images: int) -> float | None:
        """Each image once, each `glance`-th twice, and the old answers without a gradient."""
        return self._epochs(images) * images * (1 + 1 / self.glance + 1 / 3)

    def _epochs(self, images: int) -> int:
        return math.ceil(self.epochs * max(1, self.enough_images / images))

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model`, taught by what it was; before that, its idle channels silenced if asked for."""
        lessons = Distillation(model, self.temperature, self.certainty, self.disturbed, self.glance)
        layers, scores = self._ranked(model, clean, run) if self.p else ((), {})
        mask = {name: highest(score, len(score) // self.p) for name, score in scores.items()}
        silence_(model, layers, mask)
        guide = Guide(self, lessons, model)

        def after_step(tuned: nn.Module) -> None:
            silence_(tuned, layers, mask)
            guide.follow()

        self.tune(
            model,
            clean,
            run,
            after_step,
            objective=lessons,
            optimizer=guide.optimizer,
            schedule=guide.rate,
            epochs=self._epochs(len(clean)),
            resume=self.state_file(model, clean, run),
        )
        if self.epochs:
            estimate_norms_(model, clean, run, batch=self.batch, flip=self.flip)
        return Repair(model, mask, scores, guide.notes(), SCORE if self.p else "")

    def next_reach(self, reach: float, turned: float) -> float:
        """The reach of the next climb, after one of `reach` that turned this share of answers."""
        low, high = SPAN
        return min(max(reach * (1 + GAIN * (self.turned - turned)), low), high)

    def next_pace(self, pace: float, unsettled: float) -> float:
        """The factor of the learning rate after a step that unsettled this share of answers."""
        return min(max(pace * (1 + GAIN * (self.unsettled - unsettled)), 1.0), FASTEST)

    def _ranked(
        self, model: nn.Module, clean: Images, run: Run
    ) -> tuple[tuple[Layer, ...], dict[str, Tensor]]:
        chosen = clean.sample(self.ranking_images, run.rng("ranking images"))
        layers = find_layers(model, to_float(chosen.pixels[:2]))
        return layers, unused_capacity(model, layers, chosen, run)


class Guide:
    """Sharpness-aware steps on `lessons` whose reach and pace follow what they turn.

    Both are kept in the optimizer's group, so that they are saved with its state.
    """

    def __init__(self, method: FMPPlus, lessons: Distillation, model: nn.Module) -> None:
        self.method, self.lessons, self.model = method, lessons, model
        self.early = True

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> SharpnessAwareSGD:
        """The optimizer that is guided."""
        method = self.method
        self.climber = SharpnessAwareSGD(
            parameters,
            rho=method.rho,
            second_pass=lambda: statistics_kept(self.model),
            lr=method.lr,
            momentum=method.momentum,
            weight_decay=method.weight_decay,
        )
        self.climber.param_groups[0]["pace"] = 1.0
        return self.climber

    def rate(self, step: int, steps: int) -> float:
        """The factor of the learning rate."""
        self.early = step < PACED * steps
        pace: float = self.climber.param_groups[0]["pace"]
        return pace * cosine(step, steps)

    def follow(self) -> None:
        """Sets the reach, and early on the pace, of the next step."""
        climber, lessons = self.climber, self.lessons
        climber.rho = self.method.next_reach(climber.rho, float(lessons.turned))
        if self.early:
            group = climber.param_groups[0]
            group["pace"] = self.method.next_pace(group["pace"], float(lessons.unsettled))

    def notes(self) -> dict[str, float]:
        """The reach and the pace that were found."""
        return {key: self.climber.param_groups[0][key] for key in ("rho", "pace")}


def highest(score: Tensor, count: int) -> Tensor:
    """Bool `[channels]`, True for the `count` channels with the highest `score`."""
    mask = torch.zeros_like(score, dtype=torch.bool)
    mask[score.argsort(descending=True, stable=True)[:count]] = True
    return mask.cpu()
