"""AdamW with steps relative to the weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer

from ..core.images import Images
from ..core.measure import predictions
from ..core.modules import copied
from ..core.run import Run

TYPICAL = 0.15
"""The root mean square that vectors (biases, scales of norms) are taken to have: their own says
little of how far they may move."""

LEAST = 1e-3
"""The least root mean square of a matrix: one of zeros must be able to move."""

KEPT = 0.9
"""The share of its answers that a network keeps under noise of `STEPS` steps, if it bears them."""

STEPS = 5
"""How large that noise is: its standard deviation in steps."""

JUDGES = 500
"""How many images tell."""

HALVINGS = 4
"""How often a step is halved at most."""


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


def borne(model: nn.Module, images: Images, run: Run, rate: float) -> float:
    """The part (1, then smaller by a factor of the root of 2 each time) of `rate` to train with.

    Networks differ tenfold in how far their weights may move: noise of a twentieth of each weight
    leaves small networks nearly all of their answers, EfficientNet-Lite0 four of five. So noise as
    large as `STEPS` steps must leave `KEPT` of the answers to `images` as they are. It fits itself
    to no image, so those that train may tell.
    """
    judges = images.sample(min(len(images), JUDGES), run.rng("images under noise"))
    answers = predictions(model, judges, run)
    for halvings in range(2 * HALVINGS):
        part = 2 ** (-halvings / 2)
        noisy = _noisy(model, STEPS * part * rate, run)
        if predictions(noisy, judges, run).eq(answers).float().mean() >= KEPT:
            return part
    return 2.0**-HALVINGS


@torch.no_grad()
def _noisy(model: nn.Module, size: float, run: Run) -> nn.Module:
    """A copy of `model` whose weights moved by `size` times what a step of each is relative to."""
    noisy, draws = copied(model), run.rng("noise of weights")
    for tensor in noisy.parameters():
        noise = torch.randn(tensor.shape, generator=draws)
        tensor.add_(noise.to(tensor), alpha=size * _scale(tensor))
    return noisy


def _scale(tensor: nn.Parameter) -> float:
    """What a step of `tensor` is relative to."""
    if tensor.ndim < 2:
        return TYPICAL
    return max(LEAST, float(tensor.detach().float().square().mean().sqrt()))
