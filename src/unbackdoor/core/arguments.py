"""Numbers and names as people and libraries give them, as Python's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor

from .errors import ParameterError

MOST_PIXELS = 4096
"""A side of an image."""


def numbers(name: str, given: Any) -> tuple[float, ...] | None:
    """A mean or std as one number for each channel; a single number is for three."""
    if given is None:
        return None
    try:
        found = np.asarray(given, dtype=float)
    except (TypeError, ValueError):
        raise ParameterError(f"{name} must be numbers, one a channel, got {given!r}") from None
    return tuple(map(float, np.repeat(found, 3) if found.ndim == 0 else found.ravel()))


def whole(name: str, given: Any) -> Any:
    """Integers of NumPy and torch as Python's; everything else as it is."""
    if isinstance(given, np.integer) or (isinstance(given, Tensor) and given.ndim == 0):
        return int(given)
    if given is not None and (isinstance(given, bool) or not isinstance(given, int | str)):
        raise ParameterError(f"{name} must be a number or a name, got {given!r}")
    return given


def size(given: Any) -> tuple[int, int] | None:
    """(height, width); one number is both."""
    if given is None:
        return None
    sides = (given, given) if isinstance(given, int | np.integer) else given
    told = ParameterError(f"size must be a number or (height, width), got {given!r}")
    if isinstance(given, bool | str):
        raise told
    try:
        height, width = map(int, sides)
    except (TypeError, ValueError):
        raise told from None
    if min(height, width) < 1 or max(height, width) > MOST_PIXELS:
        raise ParameterError(f"size must be from 1 to {MOST_PIXELS} pixels, got {given!r}")
    return height, width


def classes(given: Any) -> int | tuple[str, ...] | None:
    """A count of classes, or their names as text."""
    if given is None or (isinstance(given, int | np.integer) and not isinstance(given, bool)):
        if given is not None and given < 1:
            raise ParameterError(f"classes must be at least 1, got {given!r}")
        return None if given is None else int(given)
    if isinstance(given, str | bool) or not isinstance(given, Iterable):
        raise ParameterError(f"classes must be a count or a list of names, got {given!r}")
    names = tuple(map(str, given))
    if not names or len(set(names)) < len(names):
        raise ParameterError(f"classes must be different names, got {list(names)}")
    return names


def columns(given: Any) -> tuple[str, str] | None:
    """The names of the images and of the labels in a file or a data set."""
    if given is None:
        return None
    if (
        isinstance(given, tuple | list)
        and len(given) == 2
        and all(isinstance(n, str) for n in given)
    ):
        return given[0], given[1]
    raise ParameterError(f"columns must be two names, (images, labels), got {given!r}")


def asked(sides: Any, channels: int | None, named: Any) -> dict[str, Any]:
    """What images should be, as the room of data takes it; a count of classes becomes names."""
    found = classes(named)
    names = tuple(map(str, range(found))) if isinstance(found, int) else found
    return {"size": size(sides), "channels": channels, "classes": names}
