"""Adversarial examples: images moved within a ball around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ball:
    """How far each image may move: `radius` in the norm L-`norm`, for pixels in [0, 1]."""

    radius: float
    norm: Literal["inf", "2"]

    def clipped(self, away: Tensor) -> Tensor:
        """The moves `[n, c, h, w]` brought back into the ball."""
        if self.norm == "inf":
            return away.clamp(-self.radius, self.radius)
        shrink: Tensor = (self.radius / _length(away)).clamp(max=1)
        return away * shrink

    def steepest(self, slope: Tensor) -> Tensor:
        """The move of size 1 in this norm that follows `slope` fastest, for each image."""
        return slope.sign() if self.norm == "inf" else slope / _length(slope)


def _length(x: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    length = length.clamp_min(torch.finfo(x.dtype).tiny)
    return length.view(-1, *[1] * (x.ndim - 1))


def avoidance(logits: Tensor, classes: Tensor) -> Tensor:
    """-log(1 - p) `[n]`, where p is the probability of the class given for each image.

    `logits` is `[n, classes]`, `classes` int64 `[n]`.
    """
    others = logits.scatter(1, classes.unsqueeze(1), -torch.inf)
    return logits.logsumexp(1) - others.logsumexp(1)
