"""Sources of images. One file is one kind of source."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Raw:
    """Pictures of any size as they were found, with labels int64 `[n]` and class names."""

    pictures: list[Image.Image]
    labels: Tensor
    classes: tuple[str, ...]
