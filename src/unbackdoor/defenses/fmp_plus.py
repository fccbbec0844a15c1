"""FMP+: the model teaches a flat copy of itself what it answers on clean images."""

from __future__ import annotations

import math
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

SCORE = "unused capacity: what a channel could answer over what it answers; the highest are pruned"


class FMPPlus(Tuning):
    """Trains the model to answer clean images as it did, by sharpness-aware steps.

    The lesson is the model's own old answer to each clean image `[n, c, h, w]` (`distillation`),
    not the label: a few thousand labels cost accuracy, its own answers do not. No clean image
    shows the trigger, so no answer teaches the backdoor; and steps that ask for a flat minimum
    (adaptive, of reach `rho`, as in FT-SAM: Zhu et al. 2023, arXiv 2304.11823) leave no room for
    what clean images do not need. No labels are used.

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
    rho: float = Field(2.0, gt=0, description="reach of the adaptive step, in relative weight norm")
    temperature: float = Field(2.0, gt=0, description="softness of the answers that are learned")

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model`, taught by what it was; before that, its idle channels silenced if asked for."""
        lessons = Distillation(model, self.temperature)
        layers, scores = self._ranked(model, clean, run) if self.p else ((), {})
        mask = {name: highest(score, len(score) // self.p) for name, score in scores.items()}
        silence_(model, layers, mask)
        self.tune(
            model,
            clean,
            run,
            lambda tuned: silence_(tuned, layers, mask),
            objective=lessons,
            optimizer=lambda parameters: SharpnessAwareSGD(
                parameters,
                rho=self.rho,
                second_pass=lambda: statistics_kept(model),
                lr=self.lr,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
            ),
            epochs=math.ceil(self.epochs * max(1, self.enough_images / len(clean))),
            resume=self.state_file(model, clean, run),
        )
        return Repair(model, mask, scores, score_name=SCORE if self.p else "")

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
