"""FMP: adversarial feature map pruning, rightly wired."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ..channels import find_layers, silence_
from ..defense import Repair, Tuning
from ..images import Images, to_float
from ..ranking import Ranker
from ..reverse import Nudge
from ..run import Run


class FMP(Tuning):
    """Prunes in each layer the channels whose feature maps, moved a little, break the model most.

    For every channel of every convolution: images made to move its map (`reverse`), the model's
    accuracy on them, the `N / p` channels of lowest accuracy silenced, and fine-tuning on the
    clean images. Images are `[n, c, h, w]`; `eps` and `alpha` are L-inf for pixels in [0, 1].

    Fine-tuning takes 20 epochs here, not the paper's 100, so that a full-width repair ends within
    half an hour on two CPU cores. Where the paper leaves a choice: eps and alpha follow an older configuration of its authors
    (its text gives eps 1/255); ties of accuracy are broken by the loss; feature maps are the
    convolutions' outputs; pruned channels stay silent through fine-tuning (`hold`; without it only
    the convolution's weights are zeroed once, its norm lives, and the channel can grow back).
    """

    paper: ClassVar[str] = (
        "Huang, Bu: Adversarial Feature Map Pruning for Backdoor, ICLR 2024, arXiv 2307.11565"
    )
    limits: ClassVar[str] = (
        "on the victims measured here the ranking finds few of the backdoor's channels, and a "
        "well-trained backdoor survives"
    )

    p: int = Field(64, ge=1, description="one channel in p is pruned from each layer")
    eps: float = Field(0.06, gt=0, le=1, description="furthest move of a pixel, of 1")
    alpha: float = Field(0.02, gt=0, le=1, description="step and random start, of 1")
    steps: int = Field(1, ge=1, description="gradient-sign steps")
    ranking_images: int = Field(32, ge=1, description="clean images that rank the channels")
    fast: bool = Field(False, description="drop channels early that cannot be among the worst")
    epochs: int = Field(20, ge=0, description="passes over the clean images; the paper's: 100")
    hold: bool = Field(True, description="keep pruned channels silent through fine-tuning")

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model` with its most suspect channels silenced, fine-tuned."""
        chosen = clean.sample(self.ranking_images, run.rng("ranking images"))
        x = to_float(chosen.pixels)
        layers = find_layers(model, x[:2])
        signs = torch.randint(0, 2, x.shape, generator=run.rng("start")).to(x) * 2 - 1
        x, signs, y = (tensor.to(run.device) for tensor in (x, signs, chosen.labels))
        ranker = Ranker(model, x, y, signs, Nudge(self.eps, self.alpha, self.steps), run)
        mask: dict[str, Tensor] = {}
        scores: dict[str, Tensor] = {}
        rank = ranker.race if self.fast else ranker.rank
        with run.stage("ranking", sum(layer.channels for layer in layers)) as advance:
            for layer in layers:
                count = layer.channels // self.p
                ranking = rank(layer, count, advance)
                mask[layer.name] = ranking.suspects(count)
                scores[layer.name] = ranking.accuracy
        if self.hold:
            silence_(model, layers, mask)
            self.tune(model, clean, run, lambda tuned: silence_(tuned, layers, mask))
            return Repair(model, mask, scores)
        bare = [replace(layer, norm=None, other_norms=()) for layer in layers]
        silence_(model, bare, mask)
        self.tune(model, clean, run)
        return Repair(model, {}, scores)
