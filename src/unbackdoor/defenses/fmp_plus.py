"""FMP+: the model teaches a flat copy of itself what it answers on clean images."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ..capacity import unused_capacity
from ..channels import Layer, find_layers, silence_
from ..defense import Repair, Tuning
from ..distillation import Distillation
from ..images import Images, to_float
from ..modules import statistics_kept
from ..run import Run
from ..sharpness import SharpnessAwareSGD

GAIN = 0.5
"""How soon the reach follows: it doubles in a dozen steps that turn half of what they should."""

SPAN = (0.1, 50.0)
"""The least and the largest reach."""

SCORE = "unused capacity: what a channel could answer over what it answers; the highest are pruned"


class FMPPlus(Tuning):
    """Trains the model to answer clean images as it did, by sharpness-aware steps.

    The lesson is the model's own old answer to each clean image `[n, c, h, w]` (`distillation`),
    not the label: a few thousand labels cost accuracy, its own answers do not. No clean image
    shows the trigger, so no answer teaches the backdoor; and steps that ask for a flat minimum
    (adaptive, as in FT-SAM: Zhu et al. 2023, arXiv 2304.11823) leave no room for what clean images
    do not need. No labels are used. How far a step climbs is not set in units of weights, which
    mean something else in every network (FT-SAM takes 2 for CIFAR-10 and 8 for GTSRB): it reaches
    as far as turns over the share `turned` of the model's answers, found by feedback.

    With `p` the `N / p` channels of each layer with the most unused capacity (`capacity`) are
    silenced before, and stay silent. That is FMP's plan with a ranking that finds backdoor
    channels, and with `epochs=0` a repair in seconds. It is off by default: after healing it
    gained nothing on the victims it was developed on, and what is silenced need not be unlearned,
    so that BadNets came back sooner when the model was retuned (docs/headline.md).
    """

    paper: ClassVar[str] = (
        "ours; after Huang, Bu: Adversarial Feature Map Pruning for Backdoor, ICLR 2024, "
        "arXiv 2307.11565, and Zhu et al., ICCV 2023, arXiv 2304.11823"
    )
    limits: ClassVar[str] = (
        "retuning on a few stamped images can bring the backdoor back, as with other repairs; RA "
        "on blended triggers stays below a clean model's"
    )

    p: int = Field(0, ge=0, description="one channel in p is pruned from each layer; 0: none")
    ranking_images: int = Field(500, ge=1, description="clean images that rank the channels")
    epochs: int = Field(6, ge=0, description="passes over the clean images, if they are enough")
    enough_images: int = Field(
        5000, ge=1, description="over fewer images as many passes more as it takes"
    )
    batch: int = Field(128, ge=2, description="images a step")
    turned: float = Field(0.22, gt=0, lt=1, description="share of answers that a climb turns over")
    rho: float = Field(2.0, gt=0, description="reach of the first climb, in relative weight norm")
    temperature: float = Field(2.0, gt=0, description="softness of the answers that are learned")

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model`, taught by what it was; before that, its idle channels silenced if asked for."""
        lessons = Distillation(model, self.temperature)
        layers, scores = self._ranked(model, clean, run) if self.p else ((), {})
        mask = {name: highest(score, len(score) // self.p) for name, score in scores.items()}
        silence_(model, layers, mask)
        climber: list[SharpnessAwareSGD] = []

        def optimizer(parameters: Iterable[nn.Parameter]) -> SharpnessAwareSGD:
            climber[:] = [self._climber(model, parameters)]
            return climber[0]

        def after_step(tuned: nn.Module) -> None:
            silence_(tuned, layers, mask)
            climber[0].rho = self.next_reach(climber[0].rho, float(lessons.turned))

        self.tune(
            model,
            clean,
            run,
            after_step,
            objective=lessons,
            optimizer=optimizer,
            epochs=math.ceil(self.epochs * max(1, self.enough_images / len(clean))),
            resume=self.state_file(model, clean, run),
        )
        return Repair(model, mask, scores, score_name=SCORE if self.p else "")

    def _climber(self, model: nn.Module, parameters: Iterable[nn.Parameter]) -> SharpnessAwareSGD:
        return SharpnessAwareSGD(
            parameters,
            rho=self.rho,
            second_pass=lambda: statistics_kept(model),
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )

    def next_reach(self, reach: float, turned: float) -> float:
        """The reach of the next climb, after one of `reach` that turned this share of answers."""
        low, high = SPAN
        return min(max(reach * (1 + GAIN * (self.turned - turned)), low), high)

    def _ranked(
        self, model: nn.Module, clean: Images, run: Run
    ) -> tuple[tuple[Layer, ...], dict[str, Tensor]]:
        chosen = clean.sample(self.ranking_images, run.rng("ranking images"))
        layers = find_layers(model, to_float(chosen.pixels[:2]))
        return layers, unused_capacity(model, layers, chosen, run)


def highest(score: Tensor, count: int) -> Tensor:
    """Bool `[channels]`, True for the `count` channels with the highest `score`."""
    mask = torch.zeros_like(score, dtype=torch.bool)
    mask[score.argsort(descending=True, stable=True)[:count]] = True
    return mask.cpu()
