"""The triggered test set of a BackdoorBench result, which lies in a folder beside the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checkpoints.untrusted import read_torch
from ..core.errors import CheckpointError, ImagesError
from ._source import Picture, Raw, Source, numbered

FOLDER = "bd_test_dataset"


def reads(path: Path) -> bool:
    """Whether `path` is a `.pt` file."""
    return path.suffix == ".pt" and path.is_file()


def read(source: Source) -> Raw:
    """The triggered images with their true labels and goals, in the order of the result's indices.

    The result tells where the images lay when the attack ran; the last two parts of each path,
    `<class>/<index>.png`, are looked up in `bd_test_dataset` beside the file. Raises `ImagesError`
    for a result that holds its images itself, and `RefusedFileError` for one that would run code.
    """
    found = read_torch(source.path)
    try:
        count = int(found["num_classes"])
        if isinstance(found["bd_test"], dict) and found["bd_test"].keys() == {"x", "y"}:
            raise ImagesError(
                f"{source} is of BackdoorBench's older layout: its triggered images carry no true "
                "labels. RA cannot be measured. For ASR save the images as a folder of their true "
                "classes, or make the result anew with the current BackdoorBench"
            )
        entries: Mapping[Any, Any] = found["bd_test"]["bd_data_container"]["data_dict"]
        if not isinstance(entries, dict):
            raise TypeError("its list of images is none")
        rows = [_row(source, entries[index]) for index in sorted(entries, key=int)]
    except (CheckpointError, ImagesError):
        raise
    except Exception:  # noqa: BLE001  whatever stands where the list of images should
        raise ImagesError(
            f"{source} is not a BackdoorBench result with a triggered test set"
        ) from None
    if not rows:
        raise ImagesError(f"{source} holds no triggered test images")
    pictures, goals, labels = zip(*rows, strict=True)
    if not 0 <= min(goals) <= max(goals) < count:
        raise ImagesError(
            f"{source}: goals run from {min(goals)} to {max(goals)}, but there are {count} classes"
        )
    return Raw(
        list(pictures),
        torch.tensor(labels, dtype=torch.int64),
        numbered(source, count),
        goals=torch.tensor(goals, dtype=torch.int64),
        numbered=True,
    )


def _row(source: Source, entry: object) -> tuple[Picture, int, int]:
    """One image, its goal and its true label."""
    if not isinstance(entry, Mapping):
        raise ImagesError(
            f"{source} holds its triggered images itself; only results with images beside them "
            "as files are read"
        )
    goal, label = (_whole(part) for part in entry["other_info"][:2])
    path = source.path.parent / FOLDER / Path(*_last_two(source, entry["path"]))
    return Picture(str(path), path), goal, label


def _whole(value: object) -> int:
    if not isinstance(value, int | np.integer) or not -(2**63) <= value < 2**63:
        raise TypeError("it is no label")
    return int(value)


def _last_two(source: Source, path: str) -> list[str]:
    """The class folder and the file name; neither may lead elsewhere."""
    parts = re.split(r"[/\\]", path)[-2:]
    if len(parts) < 2 or any(map(_leads_away, parts)):
        raise ImagesError(f"{source} names an image outside its folder: {path[:80]!r}")
    return parts


def _leads_away(part: str) -> bool:
    return part in ("", ".", "..") or ":" in part or "\0" in part
