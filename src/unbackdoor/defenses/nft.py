"""NFT: fine-tuning of neural masks on mixed images."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.images import Images, to_float
from ..core.method import source
from ..core.run import Run
from ..network.norms import MaskedNorms, affine, find_norms
from ..training.fit import cosine, fit
from .base.defense import Augmented, Repair
from .base.needs import Need


class NFT(Augmented):
    """Learns one mask for each norm channel on mixtures of clean images; no weight is tuned.

    Each image of a batch is mixed with another one, x' = l x + (1 - l) x2 with l uniform in [0, 1]
    (MixUp, Zhang et al. 2018, at its alpha of 1), and the loss is mixed alike. The masks multiply
    the norms' weights. They start at 1, pay `price` times the sum of 1 - mask, divided by the
    number of images a class, and stay within [`floor` exp(-`decay` l), 1] in the l-th norm of a
    pass: late layers may lose channels, the first ones may not. Images are `[n, c, h, w]` in
    [0, 1]. Raises `ModelError` for a network without norms.

    As in the authors' release, norms learn the statistics of the mixed images on the way. That
    takes 1,000 steps at 0.05; length and rate are here those of IMS' authors, who ran it beside
    theirs.
    """

    paper: ClassVar[str] = (
        "Karim, Al Arafat, Khalid, Guo, Rahnavard: Augmented Neural Fine-Tuning for Efficient "
        "Backdoor Purification, ECCV 2024, arXiv 2407.10052"
    )
    limits: ClassVar[str] = (
        "needs norms; what survives is masked, not removed; said to work with one image a class, "
        "which was not tried here"
    )
    needs: ClassVar[frozenset[Need]] = frozenset({"labels", "training", "norms"})

    epochs: int = Field(
        100,
        ge=0,
        description="epochs on the clean images",
        json_schema_extra=source("IMS' authors: 100; the release: 1,000 steps"),
    )
    lr: float = Field(
        0.1,
        gt=0,
        description="initial learning rate of SGD",
        json_schema_extra=source("IMS' authors: 0.1; the release: 0.05"),
    )
    last: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of the learning rate that is left at the end (cosine schedule)",
        json_schema_extra=source("IMS' authors and the release: down to 0.02"),
    )
    momentum: float = Field(
        0.95,
        ge=0,
        lt=1,
        description="momentum of SGD",
        json_schema_extra=source("authors' configuration: 0.95"),
    )
    batch: int = Field(
        128,
        ge=2,
        description="batch size",
        json_schema_extra=source("authors' configuration: 128"),
    )
    price: float = Field(
        1e-3,
        ge=0,
        description="weight of the sum of 1 - mask, divided by the number of images a class",
        json_schema_extra=source("authors' configuration: 1e-3"),
    )
    floor: float = Field(
        0.8,
        ge=0,
        le=1,
        description="least mask, before it falls with the depth",
        json_schema_extra=source("authors' configuration: 0.8"),
    )
    decay: float = Field(
        0.5,
        ge=0,
        description="how fast the least mask falls from norm to norm",
        json_schema_extra=source("authors' configuration: 0.5"),
    )

    def check(self, model: nn.Module, clean: Images) -> None:
        """Refuses a network without norms."""
        super().check(model, clean)
        find_norms(model, to_float(clean.pixels[:2]), self.name())

    def work(self, images: int, classes: int) -> float | None:
        """Each image once an epoch."""
        return self.epochs * images

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model` with its norms' weights times the masks."""
        masked = MaskedNorms(model, find_norms(model, to_float(clean.pixels[:2]), self.name()))
        price = self.price * len(clean.classes) / len(clean)
        rng = run.rng("mixtures")

        def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            mixed, other, share = mixtures(x, y, rng)
            told = net(mixed).float()
            right = share * F.cross_entropy(told, y) + (1 - share) * F.cross_entropy(told, other)
            return right + price * torch.stack([(1 - mask).sum() for mask in masked.masks]).sum()

        fit(
            masked,
            clean,
            run,
            epochs=self.epochs,
            lr=self.lr,
            batch=self.batch,
            momentum=self.momentum,
            weight_decay=0.0,
            flip=self.flip,
            schedule=lambda step, steps: self.last + (1 - self.last) * cosine(step, steps),
            objective=loss,
            after_step=lambda _: self.clip_(masked),
            stage="masks",
        )
        model.load_state_dict(masked.model.state_dict())
        masks = masked.learned()
        with torch.no_grad():
            for norm, mask in masks.items():
                affine(model, norm)[0].mul_(mask.to(run.device))
        return Repair(model, {}, masks, score_name="mask of each norm channel; low: suspect")

    @torch.no_grad()
    def clip_(self, masked: MaskedNorms) -> None:
        """Brings the masks back to where each norm's may be."""
        for depth, mask in enumerate(masked.masks, start=1):
            mask.clamp_(self.floor * math.exp(-self.decay * depth), 1)


def mixtures(x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """(images `x` mixed with others of the batch, the others' classes, the share of `x`)."""
    share = float(torch.rand((), generator=rng))
    other = torch.randperm(len(x), generator=rng).to(x.device)
    return share * x + (1 - share) * x[other], y[other], share
