"""FMP: adversarial feature map pruning, rightly wired."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..core.errors import ImagesError, ParameterError
from ..core.images import Images, to_float
from ..core.method import source
from ..core.modules import batch_statistics
from ..core.recall import kept_of
from ..core.run import Run
from ..network.channels import silence_
from ..network.layers import Layer, find_layers
from ..ranking.ranking import Kind, Ranker, Ranking
from ..ranking.reverse import Nudge
from ..ranking.shares import outliers, smaller_cluster
from .base.defense import Repair
from .base.needs import Need
from .base.plain import Plain
from .base.spared import narrow, said

SCORES: dict[Kind, str] = {
    "accuracy": "accuracy on the images made for a channel",
    "one_class": "1 less the share of a channel's images that one wrong class draws",
    "margin": "rise of the margin on a channel's images for each unit that its map is moved",
}
PRUNED = {
    "lowest": "the lowest are pruned",
    "cluster": "the smaller of two clusters is pruned",
    "outliers": "the tenth furthest from the median is pruned",
}
TENTH = 10
"""One channel in so many is an outlier."""
RANKING = {
    *("p", "eps", "alpha", "steps", "step", "projected", "fast"),
    *("share", "score", "sizes", "batch_norms"),
}
"""The fields that a ranking hangs on."""


class FMP(Plain):
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
    share: Literal["lowest", "cluster", "outliers"] = Field(
        "lowest",
        description="which channels of a layer go: the N / p of lowest score, the smaller of two "
        "clusters of the scores (2-means), or the tenth furthest from the median, on either side",
        json_schema_extra=source(
            "paper and released code (FGSM): the N / p lowest; the released code (PGD): clusters, "
            "or 10 % outliers"
        ),
    )
    score: Kind = Field(
        "accuracy",
        description="what a channel is scored by on its images: the accuracy, 1 less the share of "
        "them that one wrong class draws, or how little the margin falls for each unit that the "
        "map is moved",
        json_schema_extra=source("paper: accuracy; the other two are ours, to compare"),
    )
    sizes: int = Field(
        1,
        ge=1,
        le=16,
        description="step sizes scored together: step, 2 step, ... ; a score is the mean over them",
        json_schema_extra=source("paper: one; the released code (PGD): alpha and 2 alpha"),
    )
    batch_norms: bool = Field(
        False,
        description="while ranking, batch norms use the statistics of the channel's own images",
        json_schema_extra=source(
            "paper does not say; released code: no in the FGSM script, yes in the PGD script"
        ),
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

    def declaration(self) -> dict[str, Any]:
        """Its name and every field; `final_lr` too, which its results had before all others."""
        return {**super().declaration(), "final_lr": self.final_lr}

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model` with its most suspect channels silenced, fine-tuned."""
        chosen = self._chosen(clean, run)
        layers = find_layers(model, to_float(chosen.pixels[:2]))
        spared = self._spared(layers)
        rankings = self.rankings(model, layers, chosen, run)
        mask = {layer.name: self.suspects(layer, rankings[layer.name]) for layer in layers}
        if self.share == "cluster":
            spared = self._say([layer for layer in layers if not mask[layer.name].any()], layers)
        scores = {name: ranking.score for name, ranking in rankings.items()}
        notes = {"layers": len(layers), "layers_spared": spared, "ranking_images": len(chosen)}
        told = f"{SCORES[self.score]}; {PRUNED[self.share]}"
        if self.hold:
            silence_(model, layers, mask)
            state = self.state_file(model, clean, run)
            self.tune(model, clean, run, lambda tuned: silence_(tuned, layers, mask), resume=state)
            return Repair(model, mask, scores, notes, told)
        bare = [replace(layer, norm=None, other_norms=()) for layer in layers]
        silence_(model, bare, mask)
        self.tune(model, clean, run, resume=self.state_file(model, clean, run))
        return Repair(model, {}, scores, notes, told, pruned=mask)

    def _chosen(self, clean: Images, run: Run) -> Images:
        """The images that rank; all where there are fewer, which is said if a person set more."""
        chosen = clean.sample(self.ranking_images, run.rng("ranking images"))
        if len(chosen) < self.ranking_images and "ranking_images" in self.model_fields_set:
            self._warn(f"has {len(chosen)} clean images to rank, not {self.ranking_images}")
        return chosen

    def suspects(self, layer: Layer, ranking: Ranking) -> Tensor:
        """Bool `[channels]`, True for the channels of `layer` that are pruned."""
        if self.share == "cluster":
            return smaller_cluster(ranking.score)
        if self.share == "outliers":
            return outliers(ranking.score, self._count(layer))
        return ranking.suspects(self._count(layer))

    def nudges(self) -> tuple[Nudge, ...]:
        """How the images of a channel are made: one for each step size."""
        first = Nudge(self.eps, self.alpha, self.steps, self.step, self.projected)
        return tuple(replace(first, step=m * first.stride) for m in range(1, 1 + self.sizes))

    def _count(self, layer: Layer) -> int:
        return layer.channels // (self.p if self.share == "lowest" else TENTH)

    def _spared(self, layers: Sequence[Layer]) -> int:
        """How many `layers` are too narrow to lose a channel."""
        if self.share == "cluster":
            return 0
        return self._say([layer for layer in layers if not self._count(layer)], layers)

    def _say(self, spared: Sequence[Layer], layers: Sequence[Layer]) -> int:
        """How many layers are `spared`, said aloud; raises where all are."""
        if not spared:
            return 0
        why = {
            "lowest": narrow(f"p = {self.p}"),
            "cluster": "where no few channels stand apart",
            "outliers": narrow(TENTH),
        }
        what = said(spared, layers, why[self.share])
        if len(spared) == len(layers):
            raise ParameterError(f"fmp {what}")
        self._warn(what)
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
        rankers = self._rankers(model, x, y, signs, run)
        kept = kept_of(model, run, "ranking", self.model_dump(include=RANKING), chosen)
        known = sum(layer.channels for layer in layers if layer.name in kept.tensors)
        channels, times = sum(layer.channels for layer in layers), len(rankers)
        with run.stage("ranking", times * channels, times * known) as advance:
            for layer in layers:
                if layer.name not in kept.tensors:
                    run.part("ranking", layer.name)
                    found = [self._ranked(ranker, layer, advance) for ranker in rankers]
                    kept.add({layer.name: torch.stack(found).mean(0)})
        return {layer.name: Ranking(*kept.tensors[layer.name]) for layer in layers}

    def _rankers(
        self, model: nn.Module, x: Tensor, y: Tensor, signs: Tensor, run: Run
    ) -> list[Ranker]:
        """One for each step size."""
        if self.batch_norms:
            if len(x) < 2:
                raise ImagesError("fmp with batch_norms needs two ranking images or more, got one")
            # What a pass in bfloat16 leaves open is done again image by image: not so here.
            model, run = batch_statistics(model), replace(run, precision="fp32")
        make = partial(Ranker, model, x, y, signs)
        return [make(nudge, run, self.score, together=self.batch_norms) for nudge in self.nudges()]

    def _ranked(self, ranker: Ranker, layer: Layer, advance: Callable[[int], None]) -> Tensor:
        """Scores and losses `[2, channels]` of a layer."""
        if self.fast:
            found = ranker.race(layer, self._count(layer), advance)
        else:
            # Where more than who comes first counts, every score is to be right.
            found = ranker.rank(layer, self._count(layer) if self.racing() else None, advance)
        return torch.stack([found.score, found.loss])

    def racing(self) -> bool:
        """Whether only the lowest accuracies count, as a race and its early stop have it."""
        plain = self.share == "lowest" and self.score == "accuracy"
        return plain and self.sizes == 1 and not self.batch_norms

    @model_validator(mode="after")
    def _can_be(self) -> Self:
        if self.projected and self.alpha >= self.eps:
            raise ValueError(
                f"alpha ({self.alpha:g}) must be below eps ({self.eps:g}), which cuts every start: "
                f"set alpha too, such as alpha={self.eps / 3:.1g}, or projected=false"
            )
        if self.fast and not self.racing():
            raise ValueError(
                "fast stops early on channels that are not of the lowest accuracy, so it goes with "
                "no other share, score, sizes or batch_norms"
            )
        return self
