"""Visibility: how much a trigger changes the images it is put on."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.errors import ImagesError
from ...core.images import Images, to_float


@dataclass(frozen=True)
class Visibility:
    """PSNR in dB (higher is fainter), SSIM (1 is unseen), the largest change in [0, 1]."""

    psnr: float
    ssim: float
    linf: float

    def as_json(self) -> dict[str, float | None]:
        """The three by name; the PSNR of images that did not change is null."""
        return {**asdict(self), "psnr": self.psnr if math.isfinite(self.psnr) else None}


def visibility(clean: Images, stamped: Images, part: int = 500) -> Visibility:
    """How far `stamped` is from `clean`, image by image in the same order.

    PSNR is that of the mean squared error over all images, SSIM a mean over images, L-inf the
    largest over all. Raises `ImagesError` unless both are alike in number and size.
    """
    if clean.pixels.shape != stamped.pixels.shape or not len(clean):
        raise ImagesError(
            f"clean and triggered images must be as many and of one size, got "
            f"{list(clean.pixels.shape)} and {list(stamped.pixels.shape)}"
        )
    squared, alike, largest = 0.0, 0.0, 0.0
    pairs = zip(torch.split(clean.pixels, part), torch.split(stamped.pixels, part), strict=True)
    for before, after in pairs:
        x, y = to_float(before), to_float(after)
        squared += float((x - y).square().double().sum())
        alike += float(ssim(x, y).sum())
        largest = max(largest, float((x - y).abs().max()))
    error = squared / clean.pixels.numel()
    psnr = -10 * math.log10(error) if error else math.inf
    return Visibility(psnr, alike / len(clean), largest)


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """The structural similarity `[n]` of images `[n, c, h, w]` in [0, 1], a mean over channels.

    Wang, Bovik, Sheikh, Simoncelli 2004: a Gaussian window of 11 pixels (the largest odd number
    that fits into a smaller image), sigma 1.5, K1 = 0.01, K2 = 0.03.
    """
    channels = x.shape[1]
    side = min(11, (min(x.shape[2:]) - 1) // 2 * 2 + 1)
    bell = torch.exp(-((torch.arange(side).double() - side // 2) ** 2) / (2 * 1.5**2))
    # Variances are small differences of large numbers.
    x, y = x.double(), y.double()
    bell = (bell / bell.sum()).to(x).expand(channels, 1, 1, side)

    def mean(values: Tensor) -> Tensor:
        columns = F.conv2d(values, bell.mT, groups=channels)
        return F.conv2d(columns, bell, groups=channels)

    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    shared = mean(x * y) - mean_x * mean_y
    light = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    structure = (2 * shared + 0.03**2) / (var_x + var_y + 0.03**2)
    return (light * structure).mean((1, 2, 3))
