"""Parquet in the layout of Hugging Face image data sets: `{img|image: {bytes, path}, label}`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.errors import ImagesError
from ._source import Picture, Raw, Source, check_size, numbered

COLUMNS = ("img", "image")
ROWS = 256
"""How many rows are read at once."""


def reads(path: Path) -> bool:
    """Whether `path` is a `.parquet` file or a folder of them."""
    return path.suffix == ".parquet" if path.is_file() else any(path.glob("*.parquet"))


def read(source: Source) -> Raw:
    """The images of one file, or of all the shards in a folder, in the order of their names.

    Class names come from the schema's `huggingface` metadata; without it, classes are numbers.
    """
    path = source.path
    shards = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    classes: tuple[str, ...] | None = None
    pictures: list[Picture] = []
    labels: list[Any] = []
    for shard in shards:
        table, column = _table(shard)
        classes = classes or _class_names(shard, table.schema.metadata or {})
        labels.append(_labels(shard, table.column("label")))
        pictures += _pictures(shard, table.column(column))
    found = torch.from_numpy(np.concatenate(labels))
    count = int(found.max()) + 1 if len(found) else 0
    return Raw(pictures, found, classes or numbered(source, count))


def _table(shard: Path) -> tuple[Any, str]:
    """The two columns of a shard, and the name of that with the images."""
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise ImagesError(
            f"reading {shard.name} needs pyarrow: pip install 'unbackdoor[data]'"
        ) from None
    try:
        with pq.ParquetFile(shard) as file:
            names = file.schema_arrow.names
            column = next((name for name in COLUMNS if name in names), None)
            if column is None or "label" not in names:
                raise ImagesError(
                    f"{shard} needs the columns 'img' or 'image', and 'label'; it has "
                    f"{', '.join(names)}"
                )
            return _whole(shard, file, [column, "label"]), column
    except ImagesError:
        raise
    except Exception as error:  # noqa: BLE001  a reader breaks in more ways than can be listed
        reason = str(error).partition("\n")[0][:100]
        raise ImagesError(
            f"{shard} is no readable parquet file, or is truncated ({reason})"
        ) from None


def _whole(shard: Path, file: Any, columns: list[str]) -> Any:
    """The table of these columns, read part by part: a file of a few bytes can claim any number."""
    import pyarrow as pa

    held, claimed, parts = shard.stat().st_size, 0, []
    for part in file.iter_batches(ROWS, columns=columns):
        claimed += part.nbytes
        check_size(shard, claimed, held)
        parts.append(part)
    schema = pa.schema([file.schema_arrow.field(name) for name in columns])
    metadata = file.schema_arrow.metadata
    return pa.Table.from_batches(
        parts, parts[0].schema if parts else schema
    ).replace_schema_metadata(metadata)


def _class_names(shard: Path, metadata: dict[bytes, bytes]) -> tuple[str, ...] | None:
    try:
        found = json.loads(metadata.get(b"huggingface", b"{}"))
        names = found.get("info", {}).get("features", {}).get("label", {}).get("names")
    except (ValueError, AttributeError, RecursionError):
        raise ImagesError(f"{shard}: its huggingface metadata is damaged") from None
    if names is not None and not (isinstance(names, list) and all(map(_is_text, names))):
        raise ImagesError(f"{shard}: the class names in its metadata are no list of names")
    return tuple(names) if names else None


def _is_text(name: object) -> bool:
    return isinstance(name, str)


def _labels(shard: Path, column: Any) -> Any:
    import pyarrow as pa

    try:
        if column.null_count or not pa.types.is_integer(column.type):
            raise ImagesError(f"{shard}: the column 'label' must hold whole numbers in every row")
        return column.cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid:
        raise ImagesError(f"{shard}: the column 'label' holds numbers beyond int64") from None


def _pictures(shard: Path, column: Any) -> Iterator[Picture]:
    for row, cell in enumerate(column.to_pylist()):
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes):
            raise ImagesError(f"{shard}: row {row} holds no image bytes")
        yield Picture(f"{shard}: row {row}", data)
