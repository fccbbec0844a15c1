"""FMP+: prune the channels with the most unused capacity, heal under the model's own eye."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ..capacity import unused_capacity
from ..channels import find_layers, silence_
from ..defense import Repair, Tuning
from ..distillation import Distillation
from ..images import Images, to_float
from ..modules import statistics_kept
from ..run import Run
from ..sharpness import SharpnessAwareSGD

SCORE = "unused capacity: what a channel could answer over what it answers; the highest are pruned"


class FMPPlus(Tuning):
    """Prunes in each layer the channels that clean images leave idle, then heals the rest.

    Ranking: unused capacity (`capacity`), from one pass over clean images; the `N / p` channels
    with the most are silenced, and stay silent. Healing: the model learns to answer clean images
    `[n, c, h, w]` as it did before anything was pruned (`distillation`), by adaptive
    sharpness-aware steps of reach `rho` (FT-SAM, Zhu et al. 2023, arXiv 2304.11823). Its own old
    answers cost no accuracy, where labels of few images do; no clean image shows the trigger, so
    they teach no backdoor, and flat minima have no room for what clean images do not need.
    No labels are used.
    """

    paper: ClassVar[str] = (
        "ours; after Huang, Bu: Adversarial Feature Map Pruning for Backdoor, ICLR 2024, "
        "arXiv 2307.11565, and Zhu et al., ICCV 2023, arXiv 2304.11823"
    )
    limits: ClassVar[str] = "see docs/headline.md for what was measured"

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
        """`model` with its idle channels silenced, healed."""
        chosen = clean.sample(self.ranking_images, run.rng("ranking images"))
        layers = find_layers(model, to_float(chosen.pixels[:2]))
        lessons = Distillation(model, self.temperature)
        scores = unused_capacity(model, layers, chosen, run)
        mask = {name: _highest(score, self.p) for name, score in scores.items()}
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
        return Repair(model, mask, scores, score_name=SCORE)


def _highest(score: Tensor, p: int) -> Tensor:
    """True for the one channel in `p` with the highest `score` `[channels]`; none for p = 0."""
    mask = torch.zeros_like(score, dtype=torch.bool)
    if p:
        mask[score.argsort(descending=True, stable=True)[: len(score) // p]] = True
    return mask.cpu()
