"""Disturbances of images that should not change what a model answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

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

ANGLE, ZOOM, SHIFT = 20.0, 0.2, 0.1
"""The largest turn in degrees, change of size, and move, over half of the image's side."""

SOFT = (3, 5)
"""Sides of the squares that a blur averages over, of 32 pixels."""

SHARP = 0.5
"""An image is sharpened by up to so much of what the blur takes away."""

TONE = 0.5
"""Largest standard deviation of the logarithm of a colour plane's gamma."""

BUMPS = (2, 8)
"""How many bumps a smooth field has along a side, at least and at most."""


Way = Callable[[Tensor, Tensor], Tensor]
"""(images `[n, c, h, w]`, other images of that shape) -> the images disturbed."""


def disturbed(x: Tensor, ways: Sequence[Way]) -> Tensor:
    """Every image of `x` `[n, c, h, w]` in [0, 1], disturbed in one of `ways` at random.

    Each of a strength drawn for the image. Draws come from torch's global generator of the device
    of `x`, for what waits for a copy waits for all that is under way there.
    """
    order = torch.randperm(len(x), device=x.device)
    first = int(torch.randint(len(ways), ()))  # a few images get other ways in the next batch
    shaken, others = x[order], x[order.roll(1)]
    parts = zip(shaken.tensor_split(len(ways)), others.tensor_split(len(ways)), strict=True)
    changed = [
        ways[(first + place) % len(ways)](*part) if len(part[0]) else part[0]
        for place, part in enumerate(parts)
    ]
    return torch.cat(changed)[order.argsort()].clamp(0, 1)


def mixed(x: Tensor, others: Tensor) -> Tensor:
    """A share of up to `BLEND` of another image in each."""
    return x + BLEND * _strength(x) * (others - x)


def shaded(x: Tensor, others: Tensor) -> Tensor:
    """A smooth field of random bumps on each."""
    n, c, h, w = x.shape
    low, high = BUMPS
    bumps = int(torch.randint(low, high + 1, ()))
    field = torch.randn(n, c, bumps, bumps, device=x.device)
    field = F.interpolate(field, (h, w), mode="bicubic")
    return x + SHADE * _strength(x) * field.to(x)


def covered(x: Tensor, others: Tensor) -> Tensor:
    """A square of each replaced by another image's, or by noise in every second."""
    (n, _, h, w), at = x.shape, x.device
    longest = max(2, int(PATCH * min(h, w)))
    side = torch.randint(2, longest + 1, (n, 1, 1, 1), device=at)
    top, left = ((torch.rand(n, 1, 1, 1, device=at) * (s + 1 - side)).long() for s in (h, w))
    rows = torch.arange(h, device=at).view(1, 1, h, 1)
    columns = torch.arange(w, device=at).view(1, 1, 1, w)
    inside = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
    noisy = torch.rand(n, 1, 1, 1, device=at) < 0.5
    cover = torch.where(noisy, torch.rand(x.shape, device=at).to(x), others)
    return torch.where(inside, cover, x)


def grained(x: Tensor, others: Tensor) -> Tensor:
    """Noise on every pixel of each."""
    return x + GRAIN * _strength(x) * torch.randn(x.shape, device=x.device).to(x)


def turned(x: Tensor, others: Tensor) -> Tensor:
    """Each turned, made larger or smaller, and moved."""
    angle = math.radians(ANGLE) * _either(x)
    size = 1 + ZOOM * _either(x)
    return moved(x, angle, size, SHIFT * _either(x), SHIFT * _either(x))


def moved(x: Tensor, angle: Tensor, size: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Each image turned by an `angle` in radians, made smaller by `size`, and moved.

    All are `[n]`; `across` and `down` are shares of half of the image's side.
    """
    n, _, h, w = x.shape
    cos, sin = (size * part for part in (angle.cos(), angle.sin()))
    right, left = -sin * (h / w), sin * (w / h)  # a grid has two units along every side
    rows = torch.stack([cos, right, across, left, cos, down], 1)
    grid = F.affine_grid(rows.view(n, 2, 3), list(x.shape), align_corners=False).to(x)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def softened(x: Tensor, others: Tensor) -> Tensor:
    """Each blurred or sharpened."""
    side = SOFT[int(torch.randint(len(SOFT), ()))]
    return blurred(x, side, (1 + SHARP) * _strength(x) - SHARP)


def blurred(x: Tensor, side: int, weight: Tensor) -> Tensor:
    """Each image with a `weight` `[n, 1, 1, 1]` of a mean over squares; less than 0 sharpens.

    `side` is that of the squares, of 32 pixels.
    """
    side = max(3, round(side * min(x.shape[2:]) / 32) // 2 * 2 + 1)
    soft = F.pad(x, (side // 2,) * 4, mode="replicate")
    for kernel in ((side, 1), (1, side)):  # a square's mean, in a fraction of the time
        soft = F.avg_pool2d(soft, kernel, 1)
    return x + weight * (soft - x)


def toned(x: Tensor, others: Tensor) -> Tensor:
    """Each colour plane brighter or darker in its middle tones."""
    gamma = (TONE * _strength(x) * torch.randn(*x.shape[:2], 1, 1, device=x.device).to(x)).exp()
    return x**gamma


FOUR: tuple[Way, ...] = (mixed, shaded, covered, grained)
"""What `self_distillation` takes."""

WAYS: tuple[Way, ...] = (*FOUR, turned, softened, toned)
"""All. They are forms that triggers take, too, but none is an attack's own."""


def _strength(x: Tensor) -> Tensor:
    return torch.rand(len(x), 1, 1, 1, device=x.device).to(x)


def _either(x: Tensor) -> Tensor:
    return 2 * torch.rand(len(x), device=x.device) - 1
