"""AdamW with steps relative to the weights."""

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


def relative_adam(parameters: Iterable[nn.Parameter], rate: float, decay: float = 0.0) -> Optimizer:
    """AdamW whose steps are `rate` times the size of each tensor.

    A step also takes the share `decay * rate` from each matrix; vectors do not decay.
    """
    groups = []
    for one in parameters:
        scale = _scale(one)
        fade = decay / scale if one.ndim > 1 else 0.0
        groups.append({"params": [one], "lr": rate * scale, "weight_decay": fade})
    return torch.optim.AdamW(groups)


def _scale(tensor: nn.Parameter) -> float:
    """What a step of `tensor` is relative to."""
    if tensor.ndim < 2:
        return TYPICAL
    return max(LEAST, float(tensor.detach().float().square().mean().sqrt()))
