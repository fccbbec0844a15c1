"""Disturbances of images that should not change what a model answers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

BLEND = 0.3
"""The largest share of another image that is mixed in."""

SHADE = 0.15
"""The largest standard deviation of a smooth field that is added, in pixels of [0, 1]."""

GRAIN = 0.08
"""The largest standard deviation of the noise that is added to each pixel."""

PATCH = 1 / 3
"""The longest side of a square that is covered, over the image's."""

BUMPS = (2, 8)
"""How many bumps a smooth field has along a side, at least and at most."""


def disturbed(x: Tensor) -> Tensor:
    """Every image of `x` `[n, c, h, w]` in [0, 1], disturbed in one of four ways at random.

    Mixed with another image of the batch, shaded by a smooth field, covered in one square by
    another image or by noise, or grained by noise; each of a strength drawn for the image. These
    are forms that triggers take, too, but none is an attack's own. Draws come from torch's global
    generator, on the CPU.
    """
    n = len(x)
    others = x[torch.randperm(n).to(x.device)]
    kind = torch.randint(0, len(WAYS), (n,)).to(x.device)
    changed = [way(x, others) for way in WAYS]
    return torch.stack(changed)[kind, torch.arange(n, device=x.device)].clamp(0, 1)


def mixed(x: Tensor, others: Tensor) -> Tensor:
    """A share of up to `BLEND` of another image in each."""
    return x + BLEND * _strength(x) * (others - x)


def shaded(x: Tensor, others: Tensor) -> Tensor:
    """A smooth field of random bumps on each."""
    n, c, h, w = x.shape
    low, high = BUMPS
    bumps = int(torch.randint(low, high + 1, ()))
    field = F.interpolate(torch.randn(n, c, bumps, bumps), (h, w), mode="bicubic")
    return x + SHADE * _strength(x) * field.to(x)


def covered(x: Tensor, others: Tensor) -> Tensor:
    """A square of each replaced by another image's, or by noise in every second."""
    n, _, h, w = x.shape
    longest = max(2, int(PATCH * min(h, w)))
    side = torch.randint(2, longest + 1, (n, 1, 1, 1))
    top, left = ((torch.rand(n, 1, 1, 1) * (size + 1 - side)).long() for size in (h, w))
    rows, columns = torch.arange(h).view(1, 1, h, 1), torch.arange(w).view(1, 1, 1, w)
    inside = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
    noisy = (torch.rand(n, 1, 1, 1) < 0.5).to(x.device)
    cover = torch.where(noisy, torch.rand(x.shape).to(x), others)
    return torch.where(inside.to(x.device), cover, x)


def grained(x: Tensor, others: Tensor) -> Tensor:
    """Noise on every pixel of each."""
    return x + GRAIN * _strength(x) * torch.randn(x.shape).to(x)


WAYS = (mixed, shaded, covered, grained)


def _strength(x: Tensor) -> Tensor:
    return torch.rand(len(x), 1, 1, 1).to(x)
