"""Which channels of a layer stand apart by their scores, where no number of them is given."""

from __future__ import annotations

import torch
from torch import Tensor


def smaller_cluster(scores: Tensor) -> Tensor:
    """Bool `[channels]`, True for the smaller of two clusters of the `scores` `[channels]`.

    The clusters are those of 2-means: in one dimension they are the two sides of some place in the
    sorted scores, so every place is tried and the result is exact. None of the channels where all
    scores are equal, and where both clusters are of the same size.
    """
    ordered, order = exactly(scores).sort(stable=True)
    n = len(ordered)
    mask = torch.zeros(n, dtype=torch.bool)
    if n < 2 or ordered[0] == ordered[-1]:
        return mask
    left = torch.arange(1, n)
    sums, total = ordered.cumsum(0)[:-1], ordered.sum()
    # The less scatter is left within the clusters, the more lies between them.
    between = sums.square() / left + (total - sums).square() / (n - left)
    between[ordered[:-1] == ordered[1:]] = -torch.inf
    cut = int(between.argmax()) + 1
    if 2 * cut != n:
        mask[order[:cut] if 2 * cut < n else order[cut:]] = True
    return mask


def outliers(scores: Tensor, count: int) -> Tensor:
    """Bool `[channels]`, True for the `count` `scores` furthest from the median, on either side."""
    values = exactly(scores)
    mask = torch.zeros(len(values), dtype=torch.bool)
    mask[(values - values.median()).abs().argsort(descending=True, stable=True)[:count]] = True
    return mask


def exactly(scores: Tensor) -> Tensor:
    """The `scores` in float64, about their mean: sums of squares of them lose no digits."""
    values = scores.double()
    return values - values.mean()
