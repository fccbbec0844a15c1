"""NAD: neural attention distillation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.images import Images, to_float
from ..core.method import source
from ..core.modules import in_mode
from ..core.run import Run
from ..network.attention import attention, refuse_patches, stage_maps, stages
from ..training.fit import cosine
from .base.defense import Repair, Tuning
from .base.needs import Need


class NAD(Tuning):
    """Distills the attention maps of a fine-tuned copy into the model.

    The teacher is the copy; the loss adds, for the last stages of the network (`attention.stages`
    finds them by the size of their maps), beta times the mean squared difference between the two
    attention maps, each of length 1. A network with fewer stages uses the last of the betas.
    Constants and schedule are the authors' for a WRN-16-1, also for the teacher, which is the same
    training with betas of 0. Departures: momentum without Nesterov's look ahead, no cutout.
    BackdoorBench takes a rate of 0.01 with a cosine schedule, a batch of 256 and the paper's betas,
    which left the backdoor of the authors' own victim as it was. Raises `ModelError` for a network
    without feature maps, and for a transformer, whose only maps are those of its patches.
    """

    paper: ClassVar[str] = (
        "Li, Lyu, Koren, Lyu, Li, Ma: Neural Attention Distillation: Erasing Backdoor Triggers "
        "from Deep Neural Networks, ICLR 2021, arXiv 2101.05930"
    )
    limits: ClassVar[str] = (
        "what survives in the fine-tuned teacher survives in the student: published ASR is 55 % "
        "for Blended and 75 % for LF"
    )
    needs: ClassVar[frozenset[Need]] = frozenset({"labels", "training", "maps"})

    epochs: int = Field(
        20,
        ge=0,
        description="epochs of the student",
        json_schema_extra=source("authors' configuration: 20; BackdoorBench takes 100"),
    )
    lr: float = Field(
        0.1,
        gt=0,
        description="initial learning rate of SGD",
        json_schema_extra=source("authors' configuration: 0.1; BackdoorBench: 0.01"),
    )
    drop_after: int = Field(
        2,
        ge=0,
        description="epochs at that rate, the others take a tenth of it; 0: cosine schedule to 0",
        json_schema_extra=source("authors' training script: 2; BackdoorBench: cosine"),
    )
    batch: int = Field(
        64,
        ge=2,
        description="batch size",
        json_schema_extra=source("authors' configuration: 64; BackdoorBench: 256"),
    )
    weight_decay: float = Field(
        1e-4,
        ge=0,
        description="weight decay of SGD",
        json_schema_extra=source("authors' configuration: 1e-4"),
    )
    teacher_epochs: int = Field(
        10,
        ge=0,
        description="epochs of the teacher",
        json_schema_extra=source("BackdoorBench: 10"),
    )
    betas: tuple[float, ...] = Field(
        (0.0, 0.0, 5000.0),
        min_length=1,
        description="weight of the attention loss of each of the last stages",
        json_schema_extra=source(
            "authors' configuration with 20 epochs: 0, 0, 5000; the paper, BackdoorBench and "
            "another version of theirs: 500, 1000, 1000"
        ),
    )

    def check(self, model: nn.Module, clean: Images) -> None:
        """Refuses a network without feature maps behind its first layer."""
        super().check(model, clean)
        refuse_patches(model, to_float(clean.pixels[:2]), self.name())
        stages(model, to_float(clean.pixels[:2]), self.name())

    def work(self, images: int, classes: int) -> float | None:
        """Epochs of the teacher; of the student, with the teacher's maps beside it."""
        return images * (self.teacher_epochs + self.epochs * 4 / 3)

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model`, fine-tuned under its teacher's eye."""
        spots = stages(model, to_float(clean.pixels[:2]), self.name())[-len(self.betas) :]
        betas = self.betas[-len(spots) :]
        teacher = copy.deepcopy(model)
        long = self.teacher_epochs
        self.tune(teacher, clean, run, epochs=long, schedule=self.schedule(long), stage="teacher")

        def loss(student: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            with torch.no_grad(), in_mode(teacher, train=False), stage_maps(teacher, spots) as old:
                teacher(x)
            with stage_maps(student, spots) as new:
                total = F.cross_entropy(student(x).float(), y)
            for spot, beta in zip(spots, betas, strict=True):
                total = total + beta * F.mse_loss(attention(new[spot]), attention(old[spot]))
            return total

        schedule = self.schedule(self.epochs)
        self.tune(model, clean, run, objective=loss, schedule=schedule, stage="student")
        return Repair(model)

    def schedule(self, epochs: int) -> Callable[[int, int], float]:
        """The share of the rate at a step of all steps of so many `epochs`."""
        if not self.drop_after:
            return cosine
        return lambda step, steps: 1.0 if step * epochs < self.drop_after * steps else 0.1
