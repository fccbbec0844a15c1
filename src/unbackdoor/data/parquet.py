"""Parquet in the layout of Hugging Face image data sets: `{img|image: {bytes, path}, label}`."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError

from ..errors import ImagesError
from . import Raw

SUFFIXES = (".parquet",)
COLUMNS = ("img", "image")


def read(path: Path) -> Raw:
    """The images of one file, or of all the shards in a folder, in the order of their names."""
    shards = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    classes: tuple[str, ...] | None = None
    pictures: list[Image.Image] = []
    labels: list[int] = []
    for shard in shards:
        table = _table(shard)
        classes = classes or _class_names(table.schema.metadata or {})
        column = next(name for name in COLUMNS if name in table.column_names)
        labels += table.column("label").to_pylist()
        pictures += _decoded(shard, table.column(column))
    names = classes or tuple(str(label) for label in range(max(labels, default=-1) + 1))
    return Raw(pictures, torch.tensor(labels, dtype=torch.int64), names)


def _table(shard: Path) -> Any:
    try:
        import pyarrow.parquet as pq
        from pyarrow import ArrowInvalid
    except ImportError:
        raise ImagesError(
            f"reading {shard.name} needs pyarrow: pip install 'unbackdoor[data]'"
        ) from None
    try:
        table = pq.read_table(shard)
    except ArrowInvalid as error:
        raise ImagesError(f"{shard} is not a readable parquet file: {error}") from None
    if "label" not in table.column_names or not any(c in table.column_names for c in COLUMNS):
        raise ImagesError(
            f"{shard} needs the columns 'img' or 'image', and 'label'; it has "
            f"{', '.join(table.column_names)}"
        )
    return table


def _class_names(metadata: dict[bytes, bytes]) -> tuple[str, ...] | None:
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    names = features.get("label", {}).get("names")
    return tuple(names) if names else None


def _decoded(shard: Path, column: Any) -> Iterator[Image.Image]:
    for row, cell in enumerate(column.to_pylist()):
        try:
            picture = Image.open(io.BytesIO(cell["bytes"]))
            picture.load()
        except (UnidentifiedImageError, OSError, TypeError):
            raise ImagesError(f"{shard}: row {row} holds no readable image") from None
        yield picture
