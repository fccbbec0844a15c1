"""Sharpness-aware steps: SGD on the gradient of the worst point near the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


class SharpnessAwareSGD(torch.optim.SGD):
    """SGD whose gradient is taken where the loss within `rho` of the weights is highest.

    With w the weights and g their gradient the point is w + rho g / |g|, for `adaptive` steps
    w + rho w^2 g / |w g| (every weight moves in proportion to its size); the norms are over all
    parameters together. `step` calls its closure twice, the second time inside `second_pass()`,
    and returns the loss of the first; where the gradient is zero the weights do not move.

    Foret et al., ICLR 2021, arXiv 2010.01412; Kwon et al. (adaptive), ICML 2021, arXiv 2102.11600.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        rho: float,
        adaptive: bool = True,
        second_pass: Callable[[], AbstractContextManager[object]] = nullcontext,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
    ) -> None:
        super().__init__(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)
        self.adaptive, self.second_pass = adaptive, second_pass
        self.rho = rho

    @property
    def rho(self) -> float:
        """The reach; it may be changed between steps, and is part of the state that is saved."""
        return float(self.param_groups[0]["rho"])

    @rho.setter
    def rho(self, reach: float) -> None:
        for group in self.param_groups:
            group["rho"] = reach

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step; `closure` clears the gradients, computes them and returns the loss."""
        loss = closure()
        before = self._climb()
        with self.second_pass():
            closure()
        for weight, value in before:
            weight.copy_(value)
        super().step()
        return loss

    def _climb(self) -> list[tuple[nn.Parameter, Tensor]]:
        """Moves the weights to the worst point nearby; returns where they were."""
        weights = [w for group in self.param_groups for w in group["params"] if w.grad is not None]
        scales = [w.abs() if self.adaptive else torch.ones_like(w) for w in weights]
        slopes = [scale * w.grad for scale, w in zip(scales, weights, strict=True)]
        size = torch.stack([slope.norm() for slope in slopes]).norm()
        reach = self.rho / size.clamp_min(torch.finfo(size.dtype).tiny)
        before = [(weight, weight.clone()) for weight in weights]
        for weight, scale, slope in zip(weights, scales, slopes, strict=True):
            weight.add_(scale * slope * reach)
        return before
