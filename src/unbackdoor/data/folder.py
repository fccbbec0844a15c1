"""A folder of class folders: each image's class is the name of the folder that it is in."""

from __future__ import annotations

from pathlib import Path

import torch

from ..core.errors import ImagesError
from ._source import Picture, Raw, Source

IMAGES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def reads(path: Path) -> bool:
    """Whether `path` is a folder that holds no parquet files."""
    return path.is_dir() and not any(path.glob("*.parquet"))


def read(source: Source) -> Raw:
    """The images in the class folders of a folder, classes and files in the order of their names.

    Raises `ImagesError` for a folder without class folders, and for an empty one, by its name.
    """
    folders = sorted(
        entry for entry in source.path.iterdir() if entry.is_dir() and entry.name[0] != "."
    )
    if not folders:
        raise ImagesError(f"{source} holds no class folders")
    pictures: list[Picture] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGES)
        if not found:
            raise ImagesError(f"the class folder {folder} holds no images")
        pictures += [Picture(str(path), path) for path in found]
        labels += [label] * len(found)
    return Raw(pictures, torch.tensor(labels), tuple(folder.name for folder in folders))
