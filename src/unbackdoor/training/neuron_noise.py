"""Noise in the neurons: the weights and biases of norms times 1 + d, and the d that harms most.

Wu & Wang: ANP, NeurIPS 2021, arXiv 2110.14430; Xu et al.: BAN, NeurIPS 2024, arXiv 2405.19928.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ..core.modules import called

NORMS = (nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm, nn.LayerNorm)

Noise = dict[str, Tensor]
"""Name of a parameter -> d `[channels]`, the share by which each channel's value grows."""


def scaled_parameters(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The weights and biases that the noise scales, by name: those of norms, or of convolutions.

    Of those alone that a pass on images `x` calls: noise anywhere else does nothing.
    """
    there = set(called(model, x))
    for kinds in (NORMS, (nn.Conv2d, nn.Linear)):
        found: dict[str, Tensor] = {
            f"{path}.{name}" if path else name: value
            for path, module in model.named_modules()
            if path in there and isinstance(module, kinds)
            for name, value in module.named_parameters(recurse=False)
        }
        if found:
            return found
    return {}


def drawn(values: Mapping[str, Tensor], radius: float, rng: torch.Generator) -> Noise:
    """Noise for these parameters, uniform in [-`radius`, `radius`]."""
    return {
        name: ((torch.rand(value.shape[:1], generator=rng) * 2 - 1) * radius).to(value)
        for name, value in values.items()
    }


def under(model: nn.Module, values: Mapping[str, Tensor], noise: Noise, x: Tensor) -> Tensor:
    """The logits `[n, classes]` of images `x` `[n, c, h, w]` where `values` are scaled by noise."""
    scaled = {
        name: value * (1 + noise[name].view(-1, *[1] * (value.ndim - 1)))
        for name, value in values.items()
    }
    told: Tensor = functional_call(model, scaled, (x,))
    return told.float()


def worst(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    start: Noise,
    *,
    radius: float,
    step: float,
    steps: int,
    advance: Callable[[int], None] = lambda _: None,
) -> Noise:
    """The noise after `steps` sign steps that raise the loss of `x` for the classes `y` `[n]`.

    It stays within `radius`. `advance` is told of each step.
    """
    values = {name: model.get_parameter(name).detach() for name in start}
    noise = start
    for _ in range(steps):
        noise = {name: d.detach().requires_grad_() for name, d in noise.items()}
        with torch.enable_grad():
            loss = F.cross_entropy(under(model, values, noise, x), y)
        slopes = torch.autograd.grad(loss, list(noise.values()))
        noise = {
            name: (d.detach() + step * slope.sign()).clamp(-radius, radius)
            for (name, d), slope in zip(noise.items(), slopes, strict=True)
        }
        advance(1)
    return noise
