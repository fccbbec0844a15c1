"""A small U-Net that learns a change of images.

Ronneberger et al., MICCAI 2015, arXiv 1505.04597.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .universal import clipped


class UNet(nn.Module):
    """Images `[n, c, h, w]` in [0, 1] -> the same shape and range.

    `depth` times the area is halved and the `width` of the maps doubled, and back; each step back
    sees the maps of its size on the way down.
    """

    def __init__(self, channels: int, width: int = 32, depth: int = 3) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.first = _two(channels, width)
        self.down = nn.ModuleList([_two(a, b) for a, b in pairwise(widths)])
        self.up = nn.ModuleList([_two(a + b, a) for a, b in reversed(list(pairwise(widths)))])
        self.last = nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The changed images."""
        seen = [self.first(x)]
        for step in self.down:
            seen.append(step(F.max_pool2d(seen[-1], 2, ceil_mode=True)))
        y = seen.pop()
        for step in self.up:
            same = seen.pop()
            y = step(torch.cat([same, F.interpolate(y, same.shape[2:])], 1))
        return clipped(self.last(y).float())


def _two(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()),
        *(nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()),
    )
