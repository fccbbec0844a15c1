"""What every source of images takes and gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core.errors import ImagesError

MOST_CLASSES = 100_000
ROOM, SHRUNK = 2**30, 200
"""Bytes of pixels that any source may have, and how many times as large as its file more may be:
files of photographs are smaller than their pixels by far less, files made to fill a memory by more.
"""


@dataclass(frozen=True)
class Source:
    """A source as a person named it: `path` or a known `name`, and which part of it."""

    name: str
    split: str | None = None
    download: bool = False
    columns: tuple[str, str] | None = None
    """The names of the images and of the labels in it, if the person gave them."""

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
    turned: bool = False
    """Whether a rotation that its EXIF data ask for is done."""


@dataclass(frozen=True, eq=False)
class Raw:
    """Images as they were found, with their class names.

    `pictures` are encoded images of any size, or pixels uint8 `[n, c, h, w]`, or `[c, h, w]` each.
    `labels` is int64 `[n]`. `goals` int64 `[n]` is there if the images are triggered and the source
    tells where they should go. `size` (height, width) is what the images become unless another size
    is wanted. `numbered` says that the labels are numbers in the source itself, not the order of
    its names.
    """

    pictures: Sequence[Picture] | Sequence[Tensor] | Tensor
    labels: Tensor
    classes: tuple[str, ...]
    goals: Tensor | None = None
    size: tuple[int, int] | None = None
    numbered: bool = False


def check_size(source: object, claimed: int, held: int) -> None:
    """Raises `ImagesError` where `held` bytes of a file claim to be far more bytes of pixels."""
    if claimed > max(ROOM, SHRUNK * held):
        raise ImagesError(
            f"{source} claims {claimed / 2**30:.1f} GiB of images, but its files hold "
            f"{held / 2**20:.1f} MiB: that is not read"
        )


def numbered(source: object, count: int) -> tuple[str, ...]:
    """The names of `count` classes that have numbers only; `ImagesError` for too many of them."""
    if count > MOST_CLASSES:
        raise ImagesError(
            f"{source} has the label {count - 1:,}; there may be at most {MOST_CLASSES:,} classes"
        )
    return tuple(str(label) for label in range(count))


def named(what: str, known: Iterable[str], held: Iterable[Any], tell: str) -> str:
    """Which of the `known` names of `what` is held; "" for none, `ImagesError` for several."""
    names = set(held)
    found = [name for name in known if name in names]
    if len(found) > 1:
        raise ImagesError(f"{what} may be {' or '.join(map(repr, found))}: say which ({tell})")
    return found[0] if found else ""
