"""NumPy archives: an array of images and one of labels; never pickled objects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import ImagesError, listed
from ._arrays import labels_of_array, named_labels, pixels_of_array
from ._source import MOST_CLASSES, Raw, Source, check_size, numbered

SPLITS = ("train", "test", "val", "valid", "validation", "dev")
PAIRS = (
    *(("x", "y"), ("X", "y"), ("X", "Y"), ("images", "labels"), ("image", "label")),
    *(("pixels", "labels"), ("data", "labels"), ("data", "targets"), ("arr_0", "arr_1")),
)


def reads(path: Path) -> bool:
    """Whether `path` is a `.npz` file."""
    return path.suffix == ".npz" and path.is_file()


def read(source: Source) -> Raw:
    """The images under `x` and the labels under `y` (or `images`, `labels`; `x_test`, `y_test`...).

    Labels are whole numbers, also as floats, one-hot, or names. Images are uint8, or numbers in
    [0, 1] or from 0 to 255; `[n, h, w]`, `[n, h, w, c]` or `[n, c, h, w]` with 1 or 3 channels.
    Class names may stand under `classes`. `file.npz:test` picks a part of a file that holds
    several.
    """
    try:
        with source.path.open("rb") as file:
            x_key, x, y_key, y, classes = _arrays(source, np.load(file, allow_pickle=False))
    except ImagesError:
        raise
    except Exception as error:  # noqa: BLE001  a reader breaks in more ways than can be listed
        reason = str(error).partition("\n")[0][:100]
        raise ImagesError(
            f"{source} is no readable .npz file, or is truncated ({reason})"
        ) from None
    pixels = pixels_of_array(source, x_key, x)
    if y.dtype.kind == "U" and y.ndim == 1:
        labels, texts = named_labels(y.tolist())
    else:
        labels, texts = labels_of_array(source, y_key, y), None
    if len(pixels) != len(labels):
        raise ImagesError(f"{source} holds {len(pixels)} images but {len(labels)} labels")
    if texts is not None:
        return Raw(pixels, labels, texts)
    count = int(labels.max()) + 1 if len(labels) else 0
    names = numbered(source, count) if classes is None else _names(source, classes)
    return Raw(pixels, labels, names, numbered=True)


def _names(source: Source, classes: Any) -> tuple[str, ...]:
    if classes.size > MOST_CLASSES or classes.dtype.kind not in "USiu":
        raise ImagesError(f"{source}: classes must be at most {MOST_CLASSES:,} names")
    return tuple(map(str, classes.flat))


def _arrays(source: Source, archive: Any) -> tuple[str, Any, str, Any, Any]:
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ImagesError(f"{source} holds a single array, not images and labels")
    x_key, y_key = _keys(source, archive)
    assert archive.zip is not None
    members = archive.zip.infolist()
    held = min(source.path.stat().st_size, sum(member.compress_size for member in members))
    check_size(source, sum(member.file_size for member in members), held)
    return x_key, archive[x_key], y_key, archive[y_key], archive.get("classes")


def _keys(source: Source, archive: Mapping[str, Any]) -> tuple[str, str]:
    """The names of the images and the labels; those of the part asked for, if there are parts."""
    if source.columns:
        if missing := [name for name in source.columns if name not in archive]:
            raise ImagesError(f"{source} has no {missing[0]!r}; it holds {listed(archive)}")
        return source.columns
    every = [
        (part, x_key, y_key)
        for part in (None, *SPLITS)
        for x, y in PAIRS
        for x_key, y_key in _spelled(part, x, y)
        if x_key in archive and y_key in archive
    ]
    found = [one for one in every if one[0] == source.split]
    if source.split is None and not found:
        found = every
    if len(found) == 1:
        return found[0][1:]
    if found:
        raise ImagesError(
            f"{source} holds images more than once; say which: {_ways(source, found)}"
        )
    wanted = f"the part {source.split!r} of " if source.split else ""
    raise ImagesError(
        f"{wanted}{source.name} needs images and labels under x and y, or images and labels; it "
        f"holds {listed(archive) or 'nothing'}: say which (--columns image=...,label=...)"
    )


def _ways(source: Source, found: list[tuple[str | None, str, str]]) -> str:
    """How a person asks for each (part, images, labels) of `found`."""
    parts = [part for part, *_ in found]
    return " or ".join(
        f"{source.name}:{part}"
        if part and parts.count(part) == 1
        else f"{source.name} --columns image={x},label={y}"
        for part, x, y in found
    )


def _spelled(part: str | None, x: str, y: str) -> list[tuple[str, str]]:
    if part is None:
        return [(x, y)]
    return [(f"{x}_{part}", f"{y}_{part}"), (f"{part}_{x}", f"{part}_{y}")]
