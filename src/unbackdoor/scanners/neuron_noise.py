"""Noise in the neurons that harms the model most: does it send all images to one class?"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from ..core.images import Images, to_float
from ..core.method import source
from ..core.run import Run
from ..training.neuron_noise import drawn, scaled_parameters, under, worst
from .base.scanner import Finding, Scanner


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
        values = scaled_parameters(model, x[:2])
        with run.stage("neuron noise", self.steps) as advance:
            noise = worst(
                model,
                x,
                answers,
                drawn(values, self.radius, run.rng("noise")),
                radius=self.radius,
                step=self.step,
                steps=self.steps,
                advance=advance,
            )
        with torch.no_grad():
            now = under(model, values, noise, x).argmax(1)
        classes = len(clean.classes)
        moved = torch.bincount(now[now != answers], minlength=classes).cpu()
        others = len(x) - torch.bincount(answers, minlength=classes).cpu()
        shares = moved / others.clamp_min(1)
        return Finding(shares, float(shares.max()), notes={"moved": float((now != answers).sum())})
