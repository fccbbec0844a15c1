"""Public images of other classes, for an attacker who has none of the victim's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...core.errors import ImagesError
from ...core.images import Images, to_uint8
from .patterns import picture


def drawn(count: int, classes: int, shape: tuple[int, int, int], rng: torch.Generator) -> Images:
    """`count` images uint8 `[count, c, h, w]` of `shape`, in `classes` classes of textures.

    Each class has one large picture of soft patches. An image shows a window of it at random,
    mixed with a picture of its own, in a light of its own: classes are told apart as objects are,
    not by single pixels.
    """
    c, h, w = shape
    labels = torch.arange(count) % classes
    seeds = torch.randint(2**31, (classes,), generator=rng)
    large = [picture(int(seed), 4 + 3 * (k % 5), c, 2 * h, 2 * w) for k, seed in enumerate(seeds)]
    down = torch.randint(h + 1, (count,), generator=rng)
    right = torch.randint(w + 1, (count,), generator=rng)
    own = torch.randint(2**31, (count,), generator=rng)
    light = 0.6 + 0.8 * torch.rand(count, generator=rng)
    pixels = torch.empty(count, c, h, w, dtype=torch.uint8)
    for i, label in enumerate(labels.tolist()):
        top, left = int(down[i]), int(right[i])
        window = large[label][:, top : top + h, left : left + w]
        pixels[i] = to_uint8(light[i] * torch.lerp(window, picture(int(own[i]), 6, c, h, w), 0.3))
    return Images(pixels, labels, tuple(map(str, range(classes))))


def from_file(path: Path, shape: tuple[int, int, int]) -> Images:
    """The images of an `.npz` file: `images` uint8 `[n, h, w, c]` (or `[n, h, w]`), `labels` `[n]`.

    Raises `ImagesError` for what cannot be read or is not of `shape` (channels, height, width).
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            pixels, labels = torch.from_numpy(file["images"]), torch.from_numpy(file["labels"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ImagesError(
            f"{path} is no .npz file with arrays called images and labels: {error}"
        ) from None
    pixels = _channels_first(pixels)
    if pixels.dtype != torch.uint8 or tuple(pixels.shape[1:]) != shape:
        raise ImagesError(
            f"{path} must hold images uint8 {list(shape)} (channels, height, width) as the "
            f"training images are, got {pixels.dtype} {list(pixels.shape[1:])}"
        )
    kinds, numbers = torch.unique(labels, return_inverse=True)
    return Images(pixels, numbers.long(), tuple(map(str, kinds.tolist())))


def _channels_first(pixels: Tensor) -> Tensor:
    if pixels.ndim == 3:
        return pixels.unsqueeze(1)
    return pixels.permute(0, 3, 1, 2).contiguous() if pixels.ndim == 4 else pixels.view(-1, 1)
