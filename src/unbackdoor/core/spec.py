"""Spec: what a network is, but for its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Spec:
    """All that is needed to build a network again: everything but its weights.

    `arch` is the name of a network of ours, of one of torchvision's, `timm:NAME`, or
    `package.module:factory`. `mean` and `std` are per input channel, for images in [0, 1].
    `size` (height, width) is that of the images it was trained on, in pixels; None if nobody said.
    """

    arch: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    size: tuple[int, int] | None = None
