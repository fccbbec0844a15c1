"""torchvision's data sets by name, from parquet files if they lie there, else as torchvision keeps
them; downloaded only when that is asked for."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..core.errors import ImagesError
from . import parquet
from ._source import Picture, Raw, Source

NAMES = ("cifar10", "cifar100", "gtsrb")
SPLITS = ("train", "test")
UNMIRRORED = ("gtsrb",)  # a mirrored traffic sign is another sign
GTSRB_SIZE = (32, 32)
"""GTSRB's images are of many sizes; the field's tables are made with this one."""


def folder() -> Path:
    """Where the data sets lie: the environment's UNBACKDOOR_DATA, or a folder in the cache."""
    told = os.environ.get("UNBACKDOOR_DATA")
    return Path(told).expanduser() if told else Path.home() / ".cache" / "unbackdoor" / "data"


def read(source: Source) -> Raw:
    """The training images of a data set, or its test images with `:test`.

    `NAME-train.parquet` and `NAME-test.parquet` in `folder()` go before torchvision's own files.
    """
    split = source.split or "train"
    kept = folder() / f"{source.name}-{split}.parquet"
    if kept.is_file():
        raw = parquet.read(Source(str(kept)))
        return replace(raw, size=GTSRB_SIZE if source.name == "gtsrb" else None)
    from torchvision import datasets

    if source.name == "gtsrb":
        found = _opened(source, datasets.GTSRB, split=split)
        pictures = [Picture(str(path), Path(path)) for path, _ in found._samples]
        labels = torch.tensor([label for _, label in found._samples])
        return Raw(pictures, labels, tuple(f"{label:02}" for label in range(43)), size=GTSRB_SIZE)
    kind = datasets.CIFAR10 if source.name == "cifar10" else datasets.CIFAR100
    found = _opened(source, kind, train=split == "train")
    pixels = torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous()
    return Raw(pixels, torch.tensor(found.targets), tuple(found.classes))


def _opened(source: Source, kind: Any, **part: object) -> Any:
    """The data set. CIFAR's files are pickles: torchvision opens them if their MD5 is right."""
    root = folder()
    try:
        # Standard output belongs to the results.
        with contextlib.redirect_stdout(sys.stderr):
            if source.download:
                root.mkdir(parents=True, exist_ok=True)
            return kind(root, download=source.download, **part)
    except (RuntimeError, OSError) as error:
        if source.download:
            raise ImagesError(f"{source.name} could not be downloaded: {error}") from None
        raise ImagesError(
            f"{source.name} is not in {root}; --download fetches it, UNBACKDOOR_DATA says where"
        ) from None
