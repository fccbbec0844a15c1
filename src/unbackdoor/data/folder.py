"""A folder of class folders: each image's class is the name of the folder that it is in."""

from __future__ import annotations

import csv
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..core.errors import ImagesError, UnbackdoorWarning, listed
from . import parquet
from ._source import Picture, Raw, Source

IMAGES = frozenset(
    (
        *(".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png"),
        *(".ppm", ".tif", ".tiff", ".webp"),
    )
)
SYSTEM = frozenset(("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini", "$RECYCLE.BIN"))
"""What systems leave in folders: nobody's images."""

MOST_FOLDERS = 10_000
"""Below one class: a link may lead into all of a system."""

PART = re.compile(
    r"(?i)(train|test|val|dev|eval)(?:ing|id|idation)?"
    r"(?:[-_ ]?(?:set|data|dataset|split|images|imgs?|\d+))?"
)
"""What parts of a data set are called."""

TABLE = "classes.csv"
MOST_BYTES = 2**24
"""A larger file is no table of classes."""


def reads(path: Path) -> bool:
    """Whether `path` is a folder; one of parquet files is read by their source."""
    return path.is_dir() and not parquet.reads(path)


def parts(path: Path) -> tuple[str, ...]:
    """The parts of a data set that the folder `path` holds instead of classes."""
    return tuple(name for name in _called_parts(path) if _folders(path / name))


def _called_parts(path: Path) -> list[str]:
    """The folders in `path` if they are parts: all are called so, or two, such as train and test.

    A single folder `train` among others is a class.
    """
    found = [folder.name for folder in _folders(path)]
    kinds = {name: told[1].lower() for name in found if (told := PART.fullmatch(name))}
    if len(kinds) == len(found) or len(set(kinds.values())) > 1:
        return found if any(_folders(path / name) for name in kinds) or len(found) > 1 else []
    return []


def read(source: Source) -> Raw:
    """The images in the class folders of a folder, in the order of their names.

    Names that are all numbers are sorted as numbers, others as text. Where a file `classes.csv`
    says `folder,class` of each, as exported poisoned data do, it says the classes and their order,
    and some may have no images. Links are followed; names
    that begin with a dot and what systems leave behind are passed over; a warning counts other
    files that were left out. Raises `ImagesError` for a folder without class folders, and for an
    empty one, by its name.
    """
    root = source.path / source.split if source.split else source.path
    folders = _folders(root)
    if not folders:
        raise ImagesError(f"{source} holds no class folders")
    if not source.split:
        _check_classes(source, folders)
    table = _table(root, folders)
    if table:
        folders = [root / name for name in table]
    names = tuple(table.values() if table else (folder.name for folder in folders))
    left_out = Counter(
        "beside the class folders"
        for entry in _entries(root, optional=False)
        if not _passed_over(entry.name) and _is_image(entry)
    )
    pictures: list[Picture] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        # A folder that `classes.csv` names may be missing: it had no images.
        paths = sorted(_files(folder, left_out)) if folder.is_dir() else []
        inside = [Picture(str(path), path) for path in paths]
        if not inside and not table:
            raise ImagesError(f"the class folder {folder} holds no images")
        pictures += inside
        labels += [label] * len(inside)
    if not pictures:
        raise ImagesError(f"{source} holds no images")
    _say(source, left_out)
    return Raw(pictures, torch.tensor(labels), names)


def _check_classes(source: Source, folders: list[Path]) -> None:
    """Raises `ImagesError` where the folders are parts, or hold the parts of a data set."""
    root = folders[0].parent
    if called := _called_parts(root):
        choices = " or ".join(f"{source.name}:{part}" for part in parts(root))
        way = f"say which: {choices}" if choices else "they hold no class folders"
        raise ImagesError(f"{source} holds {listed(called)}, not classes; {way}")
    if len(folders) > 1:
        return
    (only,) = folders
    if inner := parts(only):
        choices = " or ".join(f"{only}:{part}" for part in inner)
        raise ImagesError(f"{source} holds no classes, but a data set; say which: {choices}")
    if len(_folders(only)) > 1 and not any(map(_is_image, _entries(only, optional=True))):
        warnings.warn(
            f"{source} has a single class, {only.name!r}; if the folders in it are the classes, "
            f"name {only}",
            UnbackdoorWarning,
            stacklevel=6,
        )


def _folders(path: Path) -> list[Path]:
    found = [entry for entry in path.iterdir() if entry.is_dir() and not _passed_over(entry.name)]
    numbers = all(_is_number(entry.name) for entry in found)
    return sorted(found, key=lambda entry: (int(entry.name) if numbers else 0, entry.name))


def _table(root: Path, folders: list[Path]) -> dict[str, str]:
    """The class of each folder by `classes.csv`, in its order; nothing where there is none.

    Raises `ImagesError` where folders are there that it does not name, or names twice.
    """
    path = root / TABLE
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
    except (ValueError, csv.Error):
        return {}
    if header != ["folder", "class"]:
        return {}
    table = {row[0]: row[1] for row in rows if len(row) == 2}
    strange = [folder.name for folder in folders if folder.name not in table]
    if strange or len(table) != len(rows) or not all(map(_is_inside, table)):
        why = f"does not name {strange[0]!r}" if strange else "is damaged"
        raise ImagesError(f"{path} {why}; mend it, or take it away to go by the folders")
    return table


def _is_inside(name: str) -> bool:
    """Whether `name` is that of a folder here, and no way to elsewhere."""
    return name not in ("", ".", "..") and not {"/", "\\", "\0"} & set(name)


def _files(folder: Path, left_out: Counter[str]) -> Iterator[Path]:
    """The images below `folder`, through links, each folder once; counts what is left out.

    A link to a folder that `folder` itself lies in leads nowhere new: it is not followed.
    """
    whole = folder.resolve()
    above = {_identity(parent) for parent in (whole, *whole.parents)}
    seen, waiting = set[tuple[int, int] | None](), [folder]
    while waiting:
        place = waiting.pop()
        one = _identity(place)
        if one in seen or (place != folder and one in above):
            continue
        seen.add(one)
        if len(seen) > MOST_FOLDERS:
            raise ImagesError(f"{folder} holds more than {MOST_FOLDERS:,} folders")
        for entry in _entries(place, optional=place != folder):
            suffix = Path(entry.name).suffix.lower()
            if entry.is_dir():
                if not _passed_over(entry.name):
                    waiting.append(Path(entry.path))
            elif _passed_over(entry.name):
                if suffix in IMAGES:
                    left_out["hidden"] += 1
            elif suffix in IMAGES:
                yield Path(entry.path)
            else:
                left_out[suffix or "no suffix"] += 1


def _identity(place: Path) -> tuple[int, int] | None:
    """What is the same for every path that leads to a folder; None for one that cannot be seen."""
    try:
        found = place.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _entries(place: Path, *, optional: bool) -> list[os.DirEntry[str]]:
    """What lies in a folder; nothing in one of those below a class that may not be read."""
    try:
        with os.scandir(place) as found:
            return list(found)
    except OSError:
        if optional:
            return []
        raise


def _is_image(entry: os.DirEntry[str]) -> bool:
    return Path(entry.name).suffix.lower() in IMAGES and not entry.is_dir()


def _passed_over(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal() and len(name) < 10


def as_text(source: Source) -> Tensor | None:
    """The place int64 `[classes]` of each class if its names, which are numbers, sort as text.

    None where that is the same order.
    """
    root = source.path / source.split if source.split else source.path
    folders = _folders(root)
    names = [folder.name for folder in folders]
    if _table(root, folders):
        return None
    if sorted(names) == list(names) or not all(map(_is_number, names)):
        return None
    return torch.tensor([sorted(names).index(name) for name in names])


def _say(source: Source, left_out: Counter[str]) -> None:
    if left_out:
        kinds = listed(f"{count} {kind}" for kind, count in left_out.most_common())
        warnings.warn(
            f"{source}: left out {left_out.total()} of its files, which are no images of a class "
            f"({kinds})",
            UnbackdoorWarning,
            stacklevel=5,
        )
