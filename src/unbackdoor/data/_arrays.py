"""Arrays of images and of labels as people keep them: to pixels uint8 and labels int64."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import ImagesError
from ..core.images import to_uint8

CHUNK = 1000


def pixels_of_array(source: object, key: str, x: Any) -> Tensor:
    """Images `[n, h, w]`, `[n, h, w, c]` or `[n, c, h, w]` as uint8 `[n, c, h, w]`.

    They are uint8, or numbers in [0, 1] or from 0 to 255. Raises `ImagesError` for others.
    """
    x = _numbers(x)
    if x.ndim == 3:
        x = x[:, None]
    first, last = (x.ndim == 4 and x.shape[axis] in (1, 3) for axis in (1, 3))
    if first == last:
        raise ImagesError(
            f"{source}: {key} must be [n, h, w], [n, h, w, c] or [n, c, h, w] with 1 or 3 "
            f"channels, got {list(x.shape)}"
        )
    if last:
        x = x.transpose(0, 3, 1, 2)
    if x.dtype == np.uint8:
        x = np.ascontiguousarray(x)
        return torch.from_numpy(x if x.flags.writeable else x.copy())
    if x.dtype.kind not in "fiu" or not x.size or not (x.min() >= 0 and x.max() <= 255):
        told = f"{x.dtype} from {x.min()} to {x.max()}" if x.size else f"{x.dtype}"
        raise ImagesError(
            f"{source}: {key} must be in [0, 1], or from 0 to 255, without a normalisation (the "
            f"model has its own); got {told}"
        )
    # Whole numbers count levels; floats that pass 1 can only be of 0 to 255.
    scale = 255 if x.dtype.kind in "iu" or x.max() > 1 else 1
    parts = [
        x[start : start + CHUNK].astype(np.float32) / scale for start in range(0, len(x), CHUNK)
    ]
    return torch.cat([to_uint8(torch.from_numpy(part)) for part in parts]).contiguous()


def labels_of_array(source: object, key: str, y: Any) -> Tensor:
    """Labels `[n]`, `[n, 1]` or one-hot `[n, classes]`, also as floats, as int64 `[n]`.

    Raises `ImagesError` for numbers that are not whole, and for anything else.
    """
    y = _numbers(y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2 and y.dtype.kind in "fiub" and _one_hot(y):
        y = y.argmax(1)
    if y.dtype.kind == "f" and np.isfinite(y).all() and (y == y.round()).all():
        y = y.astype(np.int64)
    if y.ndim != 1 or y.dtype.kind not in "iub":
        raise ImagesError(
            f"{source}: {key} must be whole numbers [n], or one-hot, got {y.dtype} {list(y.shape)}"
        )
    if y.dtype.kind == "u" and len(y) and y.max() > np.iinfo(np.int64).max:
        raise ImagesError(f"{source}: {key} holds numbers beyond int64")
    return torch.from_numpy(y.astype(np.int64))


def named_labels(names: Any) -> tuple[Tensor, tuple[str, ...]]:
    """Labels that are texts: (which of the classes each is, the classes).

    The classes are sorted, and as numbers if all of them are numbers, as those of folders are.
    """
    found = sorted(set(names))
    if all(name.isascii() and name.isdecimal() and len(name) < 10 for name in found):
        found.sort(key=lambda name: (int(name), name))
    places = {name: place for place, name in enumerate(found)}
    return torch.tensor([places[name] for name in names], dtype=torch.int64), tuple(found)


def _numbers(values: Any) -> Any:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _one_hot(y: Any) -> bool:
    return bool(((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all())
