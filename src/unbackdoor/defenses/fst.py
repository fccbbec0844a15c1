"""FST: feature shift tuning."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.images import Images, to_float
from ..core.method import source
from ..core.run import Run
from ..network.head import find_head
from .base.defense import Repair, Tuning
from .base.needs import Need


class FST(Tuning):
    """Fine-tunes with a new classifier that is pushed away from the old one.

    The last layer W, which puts out the logits, starts anew; the loss adds alpha <W, W_old>, which
    shifts the features of clean images away from those the backdoor feeds on, and after each step W
    is scaled back to the norm of W_old. Raises `ModelError` where no layer puts out the logits.
    """

    paper: ClassVar[str] = (
        "Min, Qin, Sun, Liu, Xu: Towards Stable Backdoor Purification through Feature Shift "
        "Tuning, NeurIPS 2023, arXiv 2310.01875"
    )
    limits: ClassVar[str] = "with few images or many classes the new classifier costs accuracy"
    needs: ClassVar[frozenset[Need]] = frozenset({"labels", "training"})

    epochs: int = Field(
        10,
        ge=0,
        description="epochs of fine-tuning",
        json_schema_extra=source("paper: 10"),
    )
    batch: int = Field(
        128,
        ge=2,
        description="batch size",
        json_schema_extra=source("authors' configuration: 128"),
    )
    lr: float = Field(
        0.01,
        gt=0,
        description="initial learning rate of SGD (cosine schedule to 0)",
        json_schema_extra=source("authors' configuration: 0.01"),
    )
    weight_decay: float = Field(
        0.0,
        ge=0,
        description="weight decay of SGD",
        json_schema_extra=source("authors' configuration: none"),
    )
    alpha: float = Field(
        0.2,
        ge=0,
        description="weight of the inner product of both classifiers",
        json_schema_extra=source(
            "authors' configuration: 0.2; 0.1 in their example; the paper: 0.1 to 0.2"
        ),
    )

    def check(self, model: nn.Module, clean: Images) -> None:
        """Refuses a network whose logits no layer puts out."""
        super().check(model, clean)
        find_head(model, to_float(clean.pixels[:2]), self.name())

    def work(self, images: int, classes: int) -> float | None:
        """Epochs of all images."""
        return float(self.epochs * images)

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model` with a new classifier and shifted features."""
        _, head = find_head(model, to_float(clean.pixels[:2]), self.name())
        old = head.weight.detach().clone()
        with run.isolated("classifier"):
            head.reset_parameters()

        def loss(tuned: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(tuned(x).float(), y) + self.alpha * (head.weight * old).sum()

        @torch.no_grad()
        def rescale(_: nn.Module) -> None:
            head.weight.mul_(old.norm() / head.weight.norm())

        self.tune(model, clean, run, objective=loss, after_step=rescale)
        return Repair(model)
