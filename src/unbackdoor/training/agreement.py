"""How far two models name the same classes (Dunnett et al., arXiv 2509.15497)."""

from __future__ import annotations

import torch
from torch import Tensor


def agreement(logits: Tensor, other: Tensor) -> Tensor:
    """-log of the probability that two models name the same class: the mean over `[n, classes]`."""
    return -(logits.log_softmax(1) + other.log_softmax(1)).logsumexp(1).mean()


def disagreement(logits: Tensor, other: Tensor) -> Tensor:
    """-log of the probability that they do not.

    Summed over the class c of the first and that the other names none of c: so models that are sure
    have a gradient, too.
    """
    return -(logits.log_softmax(1) + _not_named(other)).logsumexp(1).mean()


def _not_named(logits: Tensor) -> Tensor:
    """log(1 - p) of each class `[n, classes]`, exact for the likeliest, too."""
    logs = logits.log_softmax(1)
    top = logs.argmax(1, keepdim=True)
    others = logs.scatter(1, top, -torch.inf)
    return torch.log1p(-others.exp()).scatter(1, top, others.logsumexp(1, keepdim=True))
