"""FMP: adversarial feature map pruning, rightly wired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from ..core.errors import ParameterError, listed
from ..core.images import Images, to_float
from ..core.method import source
from ..core.recall import kept_of
from ..core.run import Run
from ..network.channels import silence_
from ..network.layers import Layer, find_layers
from ..ranking.ranking import Ranker, Ranking
from ..ranking.reverse import Nudge
from .base.defense import Repair, Tuning
from .base.needs import Need

SCORE = "accuracy on the images made for a channel; the lowest are pruned"


class FMP(Tuning):
    """Prunes the channels whose feature maps, when perturbed, lower the accuracy most.

    For every channel of every convolution: images made to move its map (`reverse`), the model's
    accuracy on them, the `N / p` channels of lowest accuracy silenced, and fine-tuning on the
    clean images. A layer of fewer than `p` channels loses none, which is said; where no layer
    loses any, `ParameterError`. Images are `[n, c, h, w]`; `eps` and `alpha` are L-inf for pixels
    in [0, 1]: the images start `alpha` away and make a step of `eps`, within `eps`.

    Fine-tuning takes 20 epochs here, not the paper's 100, so that a full-width repair ends within
    half an hour on two CPU cores. Where the paper leaves a choice: eps and alpha follow an older
    configuration of its authors (its text gives eps 1/255); ties of accuracy are broken by the
    loss; feature maps are the convolutions' outputs; pruned channels stay silent through
    fine-tuning (`hold`; without it only the convolution's weights are zeroed once, its norm lives,
    and the channel can grow back).
    """

    plain: ClassVar[bool] = True
    paper: ClassVar[str] = (
        "Huang, Bu: Adversarial Feature Map Pruning for Backdoor, ICLR 2024, arXiv 2307.11565"
    )
    limits: ClassVar[str] = (
        "fails where the backdoor's channels are not those whose perturbation lowers the accuracy "
        "most: see the results in the README"
    )
    needs: ClassVar[frozenset[Need]] = frozenset({"labels", "training"})

    p: int = Field(
        64,
        ge=1,
        description="prune 1 of every p channels in each layer",
        json_schema_extra=source("paper: 64"),
    )
    eps: float = Field(
        0.06,
        gt=0,
        le=1,
        description="largest change of a pixel (L-inf, pixels in [0, 1])",
        json_schema_extra=source("authors' older configuration: 0.06; the paper's text: 1/255"),
    )
    alpha: float = Field(
        0.02,
        gt=0,
        le=1,
        description="size of the random start, as eps",
        json_schema_extra=source("authors' older configuration: 0.02"),
    )
    steps: int = Field(
        1,
        ge=1,
        description="gradient-sign steps",
        json_schema_extra=source("authors' released code: one"),
    )
    step: float | None = Field(
        None,
        gt=0,
        le=1,
        description="size of a step; null: eps",
        json_schema_extra=source("authors' released code (FGSM): a step of eps"),
    )
    projected: bool = Field(
        True,
        description="keep the images within eps; else only the steps limit them",
        json_schema_extra=source("paper: within eps; the released code (FGSM) does not project"),
    )
    ranking_images: int = Field(
        32,
        ge=1,
        description="number of clean images used to rank the channels",
        json_schema_extra=source("authors' released code: one batch of 32"),
    )
    fast: bool = Field(
        False,
        description="stop early on channels that cannot be among the most suspect",
        json_schema_extra=source("ours: every channel is ranked, as in the paper"),
    )
    epochs: int = Field(
        20,
        ge=0,
        description="epochs of fine-tuning (the paper: 100)",
        json_schema_extra=source("ours: 20, for time, where the paper takes 100"),
    )
    hold: bool = Field(
        True,
        description="keep pruned channels at zero during fine-tuning",
        json_schema_extra=source("ours: pruned is pruned; the released code lets them grow back"),
    )

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model` with its most suspect channels silenced, fine-tuned."""
        chosen = clean.sample(self.ranking_images, run.rng("ranking images"))
        layers = find_layers(model, to_float(chosen.pixels[:2]))
        spared = self._spared(layers)
        rankings = self.rankings(model, layers, chosen, run)
        mask = {
            layer.name: rankings[layer.name].suspects(layer.channels // self.p) for layer in layers
        }
        scores = {name: ranking.accuracy for name, ranking in rankings.items()}
        notes = {"layers": float(len(layers)), "layers_spared": float(spared)}
        if self.hold:
            silence_(model, layers, mask)
            state = self.state_file(model, clean, run)
            self.tune(model, clean, run, lambda tuned: silence_(tuned, layers, mask), resume=state)
            return Repair(model, mask, scores, notes, SCORE)
        bare = [replace(layer, norm=None, other_norms=()) for layer in layers]
        silence_(model, bare, mask)
        self.tune(model, clean, run, resume=self.state_file(model, clean, run))
        return Repair(model, {}, scores, notes, SCORE)

    def nudge(self) -> Nudge:
        """How the images of a channel are made."""
        return Nudge(self.eps, self.alpha, self.steps, self.step, self.projected)

    def _spared(self, layers: Sequence[Layer]) -> int:
        """How many `layers` lose no channel, said aloud; raises where none loses any."""
        spared = [layer for layer in layers if layer.channels < self.p]
        if not spared:
            return 0
        widest = max(layer.channels for layer in layers)
        if len(spared) == len(layers):
            raise ParameterError(
                f"fmp with p = {self.p} prunes nothing: the widest layer has {widest} channels; "
                f"take a smaller p"
            )
        self._warn(
            f"prunes nothing from {len(spared)} of {len(layers)} layers, which have fewer than "
            f"p = {self.p} channels ({listed(layer.name for layer in spared)})"
        )
        return len(spared)

    def rankings(
        self, model: nn.Module, layers: Sequence[Layer], chosen: Images, run: Run
    ) -> dict[str, Ranking]:
        """The ranking of each layer's channels on the `chosen` images, by layer name.

        With `run.cache` each is kept as soon as it is known, and is not made again.
        """
        x = to_float(chosen.pixels)
        signs = torch.randint(0, 2, x.shape, generator=run.rng("start")).to(x) * 2 - 1
        x, signs, y = (tensor.to(run.device) for tensor in (x, signs, chosen.labels))
        ranker = Ranker(model, x, y, signs, self.nudge(), run)
        rank = ranker.race if self.fast else ranker.rank
        asked = self.model_dump(include={"p", "eps", "alpha", "steps", "step", "projected", "fast"})
        kept = kept_of(model, run, "ranking", asked, chosen)
        known = sum(layer.channels for layer in layers if layer.name in kept.tensors)
        with run.stage("ranking", sum(layer.channels for layer in layers), known) as advance:
            for layer in layers:
                if layer.name not in kept.tensors:
                    run.part("ranking", layer.name)
                    found = rank(layer, layer.channels // self.p, advance)
                    kept.add({layer.name: torch.stack([found.accuracy, found.loss])})
        return {layer.name: Ranking(*kept.tensors[layer.name]) for layer in layers}
