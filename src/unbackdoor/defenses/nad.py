"""NAD: neural attention distillation."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.images import Images, to_float
from ..core.modules import in_mode
from ..core.run import Run
from ..network.attention import attention, stage_maps, stages
from .base.defense import Repair, Tuning


class NAD(Tuning):
    """Distills the attention maps of a fine-tuned copy into the model.

    The teacher is the copy; the loss adds, for the last stages of the network (`attention.stages`
    finds them by the size of their maps), beta times the mean squared difference between the two
    attention maps, each of length 1. A network with fewer stages uses the last of the betas.
    Raises `ModelError` for a network without feature maps.
    """

    paper: ClassVar[str] = (
        "Li, Lyu, Koren, Lyu, Li, Ma: Neural Attention Distillation: Erasing Backdoor Triggers "
        "from Deep Neural Networks, ICLR 2021, arXiv 2101.05930"
    )
    limits: ClassVar[str] = (
        "what survives in the fine-tuned teacher survives in the student: published ASR is 55 % "
        "for Blended and 75 % for LF"
    )

    epochs: int = Field(20, ge=0, description="epochs of the student")
    teacher_epochs: int = Field(10, ge=0, description="epochs of the teacher")
    betas: tuple[float, ...] = Field(
        (500.0, 1000.0, 1000.0),
        min_length=1,
        description="weight of the attention loss of each of the last stages",
    )

    def check(self, model: nn.Module, clean: Images) -> None:
        """Refuses a network without feature maps."""
        super().check(model, clean)
        stages(model, to_float(clean.pixels[:2]), self.name())

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model`, fine-tuned under its teacher's eye."""
        spots = stages(model, to_float(clean.pixels[:2]), self.name())[-len(self.betas) :]
        betas = self.betas[-len(spots) :]
        teacher = copy.deepcopy(model)
        self.tune(teacher, clean, run, epochs=self.teacher_epochs, stage="teacher")

        def loss(student: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            with torch.no_grad(), in_mode(teacher, train=False), stage_maps(teacher, spots) as old:
                teacher(x)
            with stage_maps(student, spots) as new:
                total = F.cross_entropy(student(x).float(), y)
            for spot, beta in zip(spots, betas, strict=True):
                total = total + beta * F.mse_loss(attention(new[spot]), attention(old[spot]))
            return total

        self.tune(model, clean, run, objective=loss, stage="student")
        return Repair(model)
