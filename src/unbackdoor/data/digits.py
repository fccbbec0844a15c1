"""The 1,797 handwritten digits that come with scikit-learn, upscaled to 32x32; always offline."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ..core.images import to_uint8
from ._source import Raw, Source

NAMES = ("digits",)
SPLITS = ("train", "test")
UNMIRRORED = NAMES  # a mirrored digit is none
SIDE = 32
HELD_OUT = 4
"""Every fourth image of each class is a test image."""


def read(source: Source) -> Raw:
    """All of the digits, or the three quarters `digits:train`, or the quarter `digits:test`.

    Pixels are `[n, 3, 32, 32]`, the same in each channel.
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    x = torch.from_numpy(found.images).float().div(16).unsqueeze(1)
    labels = torch.from_numpy(found.target).long()
    chosen = _chosen(labels, source.split)
    large = F.interpolate(x[chosen], (SIDE, SIDE), mode="bilinear", align_corners=False)
    pixels = to_uint8(large).expand(-1, 3, -1, -1)
    names = tuple(str(digit) for digit in range(10))
    return Raw(pixels, labels[chosen], names, numbered=True)


def _chosen(labels: torch.Tensor, split: str | None) -> torch.Tensor:
    """Whether each image belongs to `split`; no chance is involved."""
    if split is None:
        return torch.ones_like(labels, dtype=torch.bool)
    test = torch.zeros_like(labels, dtype=torch.bool)
    for label in range(10):
        test[(labels == label).nonzero().flatten()[HELD_OUT - 1 :: HELD_OUT]] = True
    return test if split == "test" else ~test
