"""Parquet in the layout of Hugging Face image data sets: images as `{bytes, path}`, and labels."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.errors import ImagesError, listed
from ._source import ROOM, Picture, Raw, Source, check_size, numbered

IMAGES = ("img", "image", "images", "jpg", "png")
LABELS = ("label", "labels", "fine_label", "class", "target", "cls")
SPLITS = re.compile(r"(train|test|val(?:idation)?|dev)(?![a-z])")
ROWS = 32
"""How many rows are read at once, at most: a value may stand once in a file, and in every row."""


def reads(path: Path) -> bool:
    """Whether `path` is a `.parquet` file, a folder of them, or a clone with them in `data`."""
    return path.suffix == ".parquet" if path.is_file() else bool(_shards(path))


def parts(path: Path) -> tuple[str, ...]:
    """The parts of a data set that the shards in a folder are of, by how their names begin."""
    found = (SPLITS.match(shard.name) for shard in _shards(path)) if path.is_dir() else ()
    return tuple(dict.fromkeys(name[1] for name in found if name))


def _shards(path: Path) -> list[Path]:
    return sorted(path.glob("*.parquet")) or sorted((path / "data").glob("*.parquet"))


def read(source: Source) -> Raw:
    """The images of one file, or of all the shards of a part in a folder, in order of their names.

    Class names come from the schema's `huggingface` metadata, or are the labels where those are
    texts; else classes are numbers. A rotation that an image's EXIF data ask for is done.
    """
    path = source.path
    shards = _shards(path) if path.is_dir() else [path]
    found_parts = parts(path)
    if len(found_parts) > 1 and source.split is None:
        choices = " or ".join(f"{source.name}:{part}" for part in found_parts)
        raise ImagesError(f"{source} holds several parts; say which: {choices}")
    if source.split:
        begins = ((shard, SPLITS.match(shard.name)) for shard in shards)
        shards = [shard for shard, name in begins if name and name[1] == source.split]
    classes: tuple[str, ...] | None = None
    pictures: list[Picture] = []
    labels: list[Any] = []
    for shard in shards:
        table, column, label = _table(shard, source.columns)
        classes = classes or _class_names(shard, table.schema.metadata or {}, label)
        labels.append(_labels(shard, label, table.column(label)))
        pictures += _pictures(shard, table.column(column))
    whole = np.concatenate(labels)
    if whole.dtype.kind == "O":
        names, whole = np.unique(whole.astype(str), return_inverse=True)
        return Raw(pictures, torch.from_numpy(whole), tuple(map(str, names)))
    found = torch.from_numpy(whole)
    count = int(found.max()) + 1 if len(found) else 0
    return Raw(pictures, found, classes or numbered(source, count), numbered=not classes)


def _table(shard: Path, wanted: tuple[str, str] | None) -> tuple[Any, str, str]:
    """The two columns of a shard, and the names of that of the images and that of the labels."""
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise ImagesError(
            f"reading {shard.name} needs pyarrow: pip install 'unbackdoor[data]'"
        ) from None
    try:
        with pq.ParquetFile(shard) as file:
            names = file.schema_arrow.names
            image, label = wanted or (_first(IMAGES, names), _first(LABELS, names))
            if image not in names or label not in names:
                raise ImagesError(
                    f"{shard} needs a column of images and one of labels, such as 'image' and "
                    f"'label'; it has {listed(names)}: say which (--columns image=...,label=...)"
                )
            return _whole(shard, file, [image, label]), image, label
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
    groups = [file.metadata.row_group(place) for place in range(file.metadata.num_row_groups)]
    check_size(shard, sum(group.total_byte_size for group in groups), held)
    largest = max((_largest(group) for group in groups), default=0)
    for part in file.iter_batches(max(1, min(ROWS, ROOM // 4 // max(1, largest))), columns=columns):
        claimed += part.nbytes
        check_size(shard, claimed, held)
        parts.append(part)
    schema = pa.schema([file.schema_arrow.field(name) for name in columns])
    metadata = file.schema_arrow.metadata
    return pa.Table.from_batches(
        parts, parts[0].schema if parts else schema
    ).replace_schema_metadata(metadata)


def _largest(group: Any) -> int:
    """No value of these rows takes more bytes than the largest of their columns."""
    columns = (group.column(place) for place in range(group.num_columns))
    return max((column.total_uncompressed_size for column in columns), default=0)


def _first(known: tuple[str, ...], names: list[str]) -> str:
    return next((name for name in known if name in names), "")


def _class_names(shard: Path, metadata: dict[bytes, bytes], label: str) -> tuple[str, ...] | None:
    try:
        found = json.loads(metadata.get(b"huggingface", b"{}"))
        names = found.get("info", {}).get("features", {}).get(label, {}).get("names")
    except (ValueError, AttributeError, RecursionError):
        raise ImagesError(f"{shard}: its huggingface metadata is damaged") from None
    if names is not None and not (isinstance(names, list) and all(map(_is_text, names))):
        raise ImagesError(f"{shard}: the class names in its metadata are no list of names")
    return tuple(names) if names else None


def _is_text(name: object) -> bool:
    return isinstance(name, str)


def _labels(shard: Path, name: str, column: Any) -> Any:
    import pyarrow as pa

    try:
        kind = column.type
        if not column.null_count and (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            return np.array(column.to_pylist(), dtype=object)
        if column.null_count or not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise ImagesError(
                f"{shard}: the column {name!r} must hold whole numbers or names in every row"
            )
        return column.cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid:
        raise ImagesError(
            f"{shard}: the column {name!r} holds numbers that are not whole, or beyond int64"
        ) from None


def _pictures(shard: Path, column: Any) -> Iterator[Picture]:
    for row, cell in enumerate(column.to_pylist()):
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes):
            raise ImagesError(f"{shard}: row {row} holds no image bytes")
        yield Picture(f"{shard}: row {row}", data, turned=True)
