"""Noise in the neurons that harms the model most: does it send all images to one class?"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ..core.images import Images, to_float
from ..core.method import source
from ..core.run import Run
from .base.scanner import Finding, Scanner

NORMS = (nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm, nn.LayerNorm)


class NeuronNoise(Scanner):
    """Scales neurons by noise that harms the model most, and counts where the images go.

    The weight and bias of every norm are multiplied by 1 + d, |d| <= `radius`, with d found by
    `steps` sign steps that raise the loss on the model's own answers. A backdoored model tends to
    send all images to its target. The score is the share of the other classes' images that one
    class draws. Where a network has no norms, its convolutions are scaled.

    Departures from BAN: no mask of the last features is learned first, so this is its first half.
    """

    paper: ClassVar[str] = "Xu et al.: BAN, NeurIPS 2024, arXiv 2405.19928"
    limits: ClassVar[str] = (
        "clean models can have a class that all noise leads to; blind to backdoors with a target "
        "for every class"
    )
    statistic: ClassVar[str] = "share of the other classes' images that the noise sends here"

    images: int = Field(
        128,
        ge=1,
        description="largest number of clean images in all",
        json_schema_extra=source("ours: enough for the share of one class"),
    )
    radius: float = Field(
        0.3,
        gt=0,
        description="largest noise, as a share of the value",
        json_schema_extra=source("BAN: noise of 0.3"),
    )
    step: float = Field(
        0.02,
        gt=0,
        description="size of a step, as a share of the value",
        json_schema_extra=source("ours: 15 steps reach the radius"),
    )
    steps: int = Field(
        20,
        ge=1,
        description="steps of the search",
        json_schema_extra=source("ours: as many as reach the radius and settle"),
    )

    def look(self, model: nn.Module, clean: Images, run: Run) -> Finding:
        """Where the images go under the noise."""
        x = to_float(clean.pixels[: self.images]).to(run.device)
        with torch.no_grad():
            answers = model(x).float().argmax(1)
        values = scaled_parameters(model)
        rng = run.rng("noise")
        noise = {
            name: ((torch.rand(value.shape[:1], generator=rng) * 2 - 1) * self.radius).to(value)
            for name, value in values.items()
        }
        with run.stage("neuron noise", self.steps) as advance:
            for _ in range(self.steps):
                noise = {name: d.detach().requires_grad_() for name, d in noise.items()}
                loss = F.cross_entropy(_under(model, values, noise, x), answers)
                slopes = torch.autograd.grad(loss, list(noise.values()))
                noise = {
                    name: (d.detach() + self.step * slope.sign()).clamp(-self.radius, self.radius)
                    for (name, d), slope in zip(noise.items(), slopes, strict=True)
                }
                advance(1)
        with torch.no_grad():
            now = _under(model, values, noise, x).argmax(1)
        classes = len(clean.classes)
        moved = torch.bincount(now[now != answers], minlength=classes).cpu()
        others = len(x) - torch.bincount(answers, minlength=classes).cpu()
        shares = moved / others.clamp_min(1)
        return Finding(shares, float(shares.max()), notes={"moved": float((now != answers).sum())})


def scaled_parameters(model: nn.Module) -> dict[str, Tensor]:
    """The weights and biases that the noise scales, by name: those of norms, or of convolutions."""
    for kinds in (NORMS, (nn.Conv2d, nn.Linear)):
        found = {
            f"{path}.{name}" if path else name: value.detach()
            for path, module in model.named_modules()
            if isinstance(module, kinds)
            for name, value in module.named_parameters(recurse=False)
        }
        if found:
            return found
    return {}


def _under(
    model: nn.Module, values: dict[str, Tensor], noise: dict[str, Tensor], x: Tensor
) -> Tensor:
    scaled = {
        name: value * (1 + noise[name].view(-1, *[1] * (value.ndim - 1)))
        for name, value in values.items()
    }
    told: Tensor = functional_call(model, scaled, (x,))
    return told.float()
