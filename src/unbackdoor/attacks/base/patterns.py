"""Patterns that triggers are made of: pictures from a seed, waves, smooth fields."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ...core.errors import ParameterError

GIVEN = ("PNG", "JPEG", "BMP")
"""The kinds of picture that a trigger may be read from."""

CHROMA = {
    # What one unit in both chroma planes adds to red, green and blue (BT.601, full range).
    "ycbcr": (1.402, -0.344136 - 0.714136, 1.772),
    "yuv": (1.13983, -0.39465 - 0.58060, 2.03211),
}


def picture(seed: int, grid: int, channels: int, height: int, width: int) -> Tensor:
    """A picture `[channels, height, width]` in [0, 1] of `grid` x `grid` soft patches."""
    rng = torch.Generator().manual_seed(seed)
    patches = torch.rand(1, channels, grid, grid, generator=rng)
    return F.interpolate(patches, size=(height, width), mode="bilinear")[0]


def scaled(pixels: int, height: int, width: int) -> int:
    """A length of so many `pixels` in images of 32 x 32, in images of this size: a multiple of it.

    >>> scaled(3, 32, 32), scaled(3, 16, 16), scaled(3, 224, 224)
    (3, 3, 21)
    """
    return pixels * max(1, round(min(height, width) / 32))


def given(path: Path, channels: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The picture in a PNG, JPEG or BMP file, resized, and its opacity, which is the mask.

    (picture `[channels, height, width]`, opacity `[1, height, width]`), both in [0, 1]. The
    picture is grey for one channel, in red, green and blue for three. The opacity is 1 wherever
    the file has no transparency. Raises `ParameterError` for what cannot be read, and for other
    numbers of channels.
    """
    modes = {1: "LA", 3: "RGBA"}
    if channels not in modes:
        raise ParameterError(f"a picture has 1 or 3 channels; these images have {channels}")
    try:
        with Image.open(path, formats=GIVEN) as file:
            seen = file.convert(modes[channels]).resize((width, height), Image.Resampling.BILINEAR)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ParameterError(f"{path} is no PNG, JPEG or BMP picture: {error}") from None
    pixels = torch.from_numpy(np.array(seen, dtype=np.float32) / 255)
    planes = pixels.view(height, width, channels + 1).permute(2, 0, 1).contiguous()
    return planes[:channels], planes[channels:]


def dct_wave(side: int, frequency: int) -> Tensor:
    """The orthonormal DCT-II basis vector `[side]` of a frequency from 0 to side - 1."""
    places = torch.arange(side, dtype=torch.float64)
    wave = torch.cos(math.pi * (2 * places + 1) * frequency / (2 * side))
    unit: Tensor = wave / wave.norm()
    return unit


def chroma_wave(strength: float, space: str, channels: int, height: int, width: int) -> Tensor:
    """What adding `strength` to two DCT coefficients of both chroma planes adds to the pixels.

    The transforms are linear, so it is one pattern `[channels, height, width]`, in pixels of
    [0, 1]; `strength` is on the scale of 0 to 255. The coefficients are (15, 15) and (31, 31) of
    each whole block of 32 x 32; a smaller image is one block, with the coefficients at the same
    place in it (half and end). Images without three channels have no chroma: each channel gets
    the wave itself.
    """
    side = min(32, height, width)
    half, end = dct_wave(side, side // 2 - 1), dct_wave(side, side - 1)
    block = strength / 255 * (half.outer(half) + end.outer(end))
    rows, columns = height // side, width // side
    plane = torch.zeros(height, width, dtype=torch.float64)
    plane[: rows * side, : columns * side] = block.tile(rows, columns)
    gains = CHROMA[space] if channels == 3 else (1.0,) * channels
    return torch.tensor(gains).view(-1, 1, 1) * plane.float()


def low_pass(x: Tensor, sigma: float) -> Tensor:
    """`x` `[..., h, w]` with frequencies damped by a Gaussian of `sigma` cycles an image."""
    h, w = x.shape[-2:]
    v = torch.fft.fftfreq(h, 1 / h, device=x.device).view(-1, 1)
    u = torch.fft.rfftfreq(w, 1 / w, device=x.device).view(1, -1)
    damping = torch.exp(-(u**2 + v**2) / (2 * sigma**2))
    smooth: Tensor = torch.fft.irfft2(torch.fft.rfft2(x) * damping, s=(h, w))
    return smooth
