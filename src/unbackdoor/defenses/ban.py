"""BAN: fine-tuning under adversarial noise in the neurons."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.images import Images, to_float
from ..core.method import source
from ..core.modules import statistics_kept
from ..core.run import Run
from ..training.fit import constant
from ..training.neuron_noise import drawn, scaled_parameters, under, worst
from .base.defense import Repair, Tuning
from .base.needs import Need


class BAN(Tuning):
    """Fine-tunes a model that must also be right while its neurons are scaled by harmful noise.

    In every step the weight and bias of each norm channel are multiplied by 1 + d, |d| <= `radius`,
    with d drawn at random and moved by `steps` sign steps up the loss. The loss is cross-entropy as
    the model is, plus `weight` times cross-entropy under the noise. Images are `[n, c, h, w]` in
    [0, 1]. Norms keep the statistics of the passes without noise. Where a network has no norms, its
    convolutions and linear layers are scaled.

    The paper's repair alone, whatever its detection says of the model. The released script lets
    noise leave `radius` by its random start; here it stays, as the paper says.
    """

    paper: ClassVar[str] = (
        "Xu, Liu, Picek, Zhang: BAN: Detecting Backdoors Activated by Adversarial Neuron Noise, "
        "NeurIPS 2024, arXiv 2405.19928"
    )
    limits: ClassVar[str] = (
        "retraining on a few triggered images brings backdoors back after such repairs "
        "(Min et al., arXiv 2410.09838); each step takes three times as long as fine-tuning"
    )
    needs: ClassVar[frozenset[Need]] = frozenset({"labels", "training"})

    epochs: int = Field(
        25,
        ge=0,
        description="epochs of fine-tuning",
        json_schema_extra=source("authors' configuration: 25"),
    )
    lr: float = Field(
        0.005,
        gt=0,
        description="learning rate of SGD (constant)",
        json_schema_extra=source("authors' configuration: 0.005; it first falls at epoch 100"),
    )
    batch: int = Field(
        128,
        ge=2,
        description="batch size",
        json_schema_extra=source("authors' configuration: 128"),
    )
    radius: float = Field(
        0.3,
        gt=0,
        description="largest noise, as a share of the value",
        json_schema_extra=source("authors' configuration: 0.3"),
    )
    steps: int = Field(
        1,
        ge=1,
        description="sign steps that find the noise, each radius / steps long",
        json_schema_extra=source("authors' configuration: 1"),
    )
    weight: float = Field(
        0.5,
        ge=0,
        description="weight of the loss under noise",
        json_schema_extra=source("authors' configuration: 0.5"),
    )

    def work(self, images: int, classes: int) -> float | None:
        """Each image as it is, under noise, and to find the noise."""
        return self.epochs * images * (2 + self.steps)

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model`, fine-tuned in place."""
        rng = run.rng("neuron noise")
        names = tuple(scaled_parameters(model, to_float(clean.pixels[:2])))

        def loss(tuned: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            values: dict[str, Tensor] = {name: tuned.get_parameter(name) for name in names}
            with statistics_kept(tuned):
                noise = worst(
                    tuned,
                    x,
                    y,
                    drawn(values, self.radius, rng),
                    radius=self.radius,
                    step=self.radius / self.steps,
                    steps=self.steps,
                )
                noisy = F.cross_entropy(under(tuned, values, noise, x), y)
            return F.cross_entropy(tuned(x).float(), y) + self.weight * noisy

        self.tune(model, clean, run, objective=loss, schedule=constant)
        return Repair(model)
