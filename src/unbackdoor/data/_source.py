"""What every source of images takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor


@dataclass(frozen=True)
class Source:
    """A source as a person named it: `path` or a known `name`, and which part of it."""

    name: str
    split: str | None = None
    download: bool = False

    @property
    def path(self) -> Path:
        """The file or folder that the name stands for."""
        return Path(self.name).expanduser()

    def __str__(self) -> str:
        return f"{self.name}:{self.split}" if self.split else self.name


@dataclass(frozen=True)
class Picture:
    """An encoded image, not yet decoded: its name for messages, and its file or its bytes."""

    name: str
    data: Path | bytes


@dataclass(frozen=True, eq=False)
class Raw:
    """Images as they were found, with their class names.

    `pictures` are encoded images of any size, or pixels uint8 `[n, c, h, w]`. `labels` is int64
    `[n]`. `goals` int64 `[n]` is there if the images are stamped and the source tells where they
    should go. `size` (height, width) is what the images become unless another size is wanted.
    """

    pictures: Sequence[Picture] | Tensor
    labels: Tensor
    classes: tuple[str, ...]
    goals: Tensor | None = None
    size: tuple[int, int] | None = None
