"""Adam with steps relative to the weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer

TYPICAL = 0.15
"""The root mean square that vectors (biases, scales of norms) are taken to have: their own says
little of how far they may move."""

LEAST = 1e-3
"""The least root mean square of a matrix: one of zeros must be able to move."""


def relative_adam(parameters: Iterable[nn.Parameter], rate: float) -> Optimizer:
    """Adam whose steps are `rate` times the size of each tensor."""
    return torch.optim.Adam([{"params": [one], "lr": rate * _scale(one)} for one in parameters])


def _scale(tensor: nn.Parameter) -> float:
    """What a step of `tensor` is relative to."""
    if tensor.ndim < 2:
        return TYPICAL
    return max(LEAST, float(tensor.detach().float().square().mean().sqrt()))
