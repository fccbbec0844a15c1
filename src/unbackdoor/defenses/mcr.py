"""MCR: mode connectivity repair."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ..core.images import Images
from ..core.method import source
from ..core.run import Run
from ..training.fit import estimate_norms_
from .base.defense import Repair, Tuning
from .base.needs import Need


class MCR(Tuning):
    """Takes a point on a low-loss curve between the model and a fine-tuned copy.

    The curve is a quadratic Bezier curve, whose bend learns the clean images at random points of
    it; the point `t` (0: the model, 1: the copy) is taken, and batch norms estimate their
    statistics anew there. The bend starts half way between the ends.

    The paper joins two backdoored models; with one, the field's protocol makes the second by
    fine-tuning. The bend learns at BackdoorBench's small rate: at that of fine-tuning it forgets
    where the ends are.
    """

    paper: ClassVar[str] = (
        "Zhao, Chen, Das, Ramamurthy, Lin: Bridging Mode Connectivity in Loss Landscapes and "
        "Adversarial Robustness, ICLR 2020, arXiv 2005.00060"
    )
    limits: ClassVar[str] = (
        "near the model the curve keeps the backdoor; what fine-tuning keeps is kept everywhere"
    )
    needs: ClassVar[frozenset[Need]] = frozenset({"labels", "training"})

    epochs: int = Field(
        100,
        ge=0,
        description="epochs that train the curve",
        json_schema_extra=source("BackdoorBench: 100"),
    )
    lr: float = Field(
        3e-5,
        gt=0,
        description="initial learning rate of the curve (cosine schedule to 0)",
        json_schema_extra=source("BackdoorBench: 3e-5"),
    )
    batch: int = Field(
        128,
        ge=2,
        description="batch size",
        json_schema_extra=source("BackdoorBench: 128"),
    )
    copy_epochs: int = Field(
        100,
        ge=0,
        description="epochs that fine-tune the copy",
        json_schema_extra=source("BackdoorBench: 100"),
    )
    copy_lr: float = Field(
        0.01,
        gt=0,
        description="initial learning rate of the copy (cosine schedule to 0)",
        json_schema_extra=source("BackdoorBench: 0.01"),
    )
    t: float = Field(
        0.1,
        ge=0,
        le=1,
        description="point of the curve that is taken; 0 is the model, 1 the copy",
        json_schema_extra=source("BackdoorBench: 0.1"),
    )

    def work(self, images: int, classes: int) -> float | None:
        """Epochs of the copy and of the curve."""
        return float((self.copy_epochs + self.epochs) * images)

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model` with the weights of the point."""
        tuned = copy.deepcopy(model)
        self.tune(tuned, clean, run, epochs=self.copy_epochs, lr=self.copy_lr, stage="copy")
        curve = Curve(model, tuned)
        rng = run.rng("points")

        def loss(_: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            t = float(torch.rand((), generator=rng))
            return F.cross_entropy(curve(x, t).float(), y)

        self.tune(curve, clean, run, objective=loss, stage="bend")
        with torch.no_grad():
            for weight, value in zip(model.parameters(), curve.point(self.t), strict=True):
                weight.copy_(value)
        estimate_norms_(model, clean, run, batch=self.batch, flip=self.flip)
        return Repair(model)


class Curve(nn.Module):
    """The quadratic Bezier curve from the weights of `start` to those of `end`.

    Its `bend`, one tensor for each parameter, is all that trains.
    """

    def __init__(self, start: nn.Module, end: nn.Module) -> None:
        super().__init__()
        self.net = copy.deepcopy(start).requires_grad_(False)
        self.end = copy.deepcopy(end).requires_grad_(False)
        self.names = [name for name, _ in start.named_parameters()]
        ends = zip(self.net.parameters(), self.end.parameters(), strict=True)
        self.bend = nn.ParameterList([nn.Parameter((a + b) / 2) for a, b in ends])

    def point(self, t: float) -> list[Tensor]:
        """The weights at `t` in [0, 1], in the order of the parameters."""
        three = zip(self.net.parameters(), self.bend, self.end.parameters(), strict=True)
        return [(1 - t) ** 2 * a + 2 * t * (1 - t) * bend + t**2 * b for a, bend, b in three]

    def forward(self, x: Tensor, t: float) -> Tensor:
        """The logits `[n, classes]` that the weights at `t` give for images `[n, c, h, w]`."""
        weights = dict(zip(self.names, self.point(t), strict=True))
        logits: Tensor = functional_call(self.net, weights, (x,))
        return logits
