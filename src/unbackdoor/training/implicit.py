"""Implicit gradients: how an outer loss changes with the weights, through what they make best."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def through_fixed_point(
    outer: Callable[[Tensor], Tensor],
    step: Callable[[Tensor], Tensor],
    point: Tensor,
    terms: int,
) -> Tensor:
    """A scalar whose gradient for the weights is that of `outer` where `point` follows them.

    `outer(point)` is the loss, a scalar; `step(point)` one step of the iteration whose fixed point
    `point` is, differentiable twice. Both read the weights. With F the step and u the gradient of
    the loss for the point, the gradient is that of the loss itself plus v dF/dw, where v sums
    `terms` terms of the series u + u dF/dp + u dF/dp dF/dp + ...; with none the point is taken to
    stay where it is. The value means nothing.

    Grazzi et al., ICML 2020, arXiv 2006.16218.
    """
    point = point.detach().requires_grad_()
    loss = outer(point)
    if not terms:
        return loss
    moved = step(point)
    (direct,) = torch.autograd.grad(loss, point, retain_graph=True)
    series = direct
    for _ in range(terms - 1):
        (further,) = torch.autograd.grad(moved, point, series, retain_graph=True)
        series = direct + further
    return loss + (moved * series.detach()).sum()
