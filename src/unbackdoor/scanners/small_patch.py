"""Neural Cleanse: a class that an unusually small patch leads to."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from ..core.images import Images
from ..core.method import source
from ..core.run import Run
from ..training.inversion import Search, invert
from .base.scanner import Finding, Scanner, outlying


class SmallPatch(Scanner):
    """For each class, the smallest patch that sends clean images there (Neural Cleanse).

    A class with an unusually small one is suspect: the score is by how many deviations the
    logarithm of its size is below the median of the others. The search is that of the defense
    `neural_cleanse`, on fewer images and passes. A class that no patch led to has the size of the
    whole image.

    Departures: fewer passes; sizes are compared by their logarithms.
    """

    paper: ClassVar[str] = (
        "Wang, Yao, Shan, Li, Viswanath, Zheng, Zhao: Neural Cleanse: Identifying and Mitigating "
        "Backdoor Attacks in Neural Networks, IEEE S&P 2019"
    )
    limits: ClassVar[str] = (
        "finds patches: large, blended and warped triggers leave no small one; false alarms on "
        "clean models are common in published tables; the slowest scanner here"
    )
    statistic: ClassVar[str] = "1 / size of the smallest patch that leads here, pixels"

    images: int = Field(
        96,
        ge=1,
        description="largest number of clean images in all",
        json_schema_extra=source("ours: for time"),
    )
    epochs: int = Field(
        30,
        ge=1,
        description="passes over them for each class",
        json_schema_extra=source("ours: for time"),
    )
    batch: int = Field(
        32,
        ge=1,
        description="images a step",
        json_schema_extra=source("ours: small, since the images are few"),
    )
    lr: float = Field(
        0.1,
        gt=0,
        description="learning rate of Adam",
        json_schema_extra=source("released code: 0.1"),
    )
    cost: float = Field(
        0.01,
        gt=0,
        description="weight of the patch's size at the start",
        json_schema_extra=source("paper: the price changes by itself from here"),
    )
    success: float = Field(
        0.9,
        gt=0,
        le=1,
        description="share of the images that must follow it",
        json_schema_extra=source("paper: 0.99; ours: 0.9, for time"),
    )

    def look(self, model: nn.Module, clean: Images, run: Run) -> Finding:
        """The smallest patch of each class."""
        search = Search(self.epochs, self.lr, self.batch, self.cost, self.success, patience=2)
        used, classes = clean[: self.images], len(clean.classes)
        with run.stage("patches", classes * self.epochs) as advance:
            patches = [invert(model, label, used, run, search, advance) for label in range(classes)]
        whole = float(clean.shape[1] * clean.shape[2])
        sizes = torch.tensor(
            [patch.size if patch.success >= self.success else whole for patch in patches]
        ).clamp_min(1e-3)
        best = patches[int(sizes.argmin())]
        return Finding(
            1 / sizes,
            outlying(-sizes.log()),
            change=best.pattern.cpu(),
            mask=best.mask.cpu(),
            reach=best.success,
            notes={"size": float(sizes.min())},
        )
