"""Parquet in the layout of Hugging Face image data sets: images as `{bytes, path}`, and labels."""

from __future__ import annotations

import json
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import ImagesError, UnbackdoorWarning, listed
from ._arrays import labels_of_array, named_labels
from ._source import ROOM, Picture, Raw, Source, check_size, named, numbered

IMAGES = ("img", "image", "images", "jpg", "png")
LABELS = ("label", "labels", "fine_label", "class", "target", "cls")
NUMBER = re.compile(
    r"(?i)(?:^|[-_.]|(?<=train)|(?<=test)|(?<=val))\d+([-_]of[-_]\d+)?([-_][0-9a-f]{6,})?$"
)
"""How the name of a shard ends, behind that of its part."""

PART = re.compile(
    r"(?i)(?:^|[-_./])(train|training|test|testing|val|valid|validation|dev|eval)(?![a-z])"
)
MOST_FOLDERS = 20
"""A data set has few configurations; a folder with more folders in it is one of classes."""

ROWS = 32
"""How many rows are read at once, at most: a value may stand once in a file, and in every row."""


def reads(path: Path) -> bool:
    """Whether `path` is a `.parquet` file, or a folder with some in it or one level below."""
    return path.suffix == ".parquet" if path.is_file() else bool(_shards(path))


def parts(path: Path) -> tuple[str, ...]:
    """The parts of a data set that the shards in a folder are of, by their names and folders."""
    found = tuple(dict.fromkeys(_part_of(path).values()))
    return found if any(map(PART.search, found)) else ()


def _part_of(path: Path) -> dict[Path, str]:
    """The part that each shard in the folder `path` is of, as its name and its folder tell."""
    shards = _shards(path) if path.is_dir() else []
    several = len({shard.parent for shard in shards}) > 1
    stems = {
        shard: (shard.parent.name if several else "", NUMBER.sub("", shard.stem))
        for shard in shards
    }
    short = {one: (one[0], told[1]) for one in stems.values() if (told := PART.search(one[1]))}
    alike = Counter(short.values())  # a-test and b-test are no one part
    return {
        shard: "/".join(filter(None, short[one] if alike[short.get(one, one)] == 1 else one))
        for shard, one in stems.items()
    }


def _shards(path: Path) -> list[Path]:
    found = sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))
    if found or not path.is_dir():
        return found
    folders = [folder for folder in path.iterdir() if folder.is_dir() and folder.name[0] != "."]
    if len(folders) > MOST_FOLDERS:
        return []
    return sorted(shard for folder in folders for shard in folder.glob("*.parquet"))


def _wanted(source: Source) -> list[Path]:
    """The files to read; raises `ImagesError` where there are several parts, and none is named."""
    if not source.path.is_dir():
        return [source.path]
    of, named = _part_of(source.path), parts(source.path)
    if source.split:
        return [shard for shard, part in of.items() if part == source.split]
    if len(named) > 1:
        choices = " or ".join(f"{source.name}:{part}" for part in named)
        raise ImagesError(f"{source} holds several parts; say which: {choices}")
    if len(set(of.values())) > 1:
        warnings.warn(
            f"{source}: its {len(of)} parquet files ({listed(shard.name for shard in of)}) are "
            "read as one; for one of them, name that file",
            UnbackdoorWarning,
            stacklevel=6,
        )
    return list(of)


def read(source: Source) -> Raw:
    """The images of one file, or of all the shards of a part in a folder, in order of their names.

    Class names come from the schema's `huggingface` metadata, or are the labels where those are
    texts; else classes are numbers, also as floats, or one-hot. A rotation that an image's EXIF
    data ask for is done.
    """
    shards = _wanted(source)
    classes: tuple[str, ...] | None = None
    pictures: list[Picture] = []
    labels: list[Any] = []
    for shard in shards:
        table, column, label = _table(shard, source.columns)
        classes = classes or _class_names(shard, table.schema.metadata or {}, label)
        labels.append(_labels(shard, label, table.column(label)))
        pictures += _pictures(shard, table.column(column))
    if any(isinstance(found, list) for found in labels):
        if not all(isinstance(found, list) for found in labels):
            raise ImagesError(f"{source}: labels are names in some of its files, numbers in others")
        return Raw(pictures, *named_labels([name for found in labels for name in found]))
    found = torch.cat(labels)
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
            image, label = wanted or _known(shard, names)
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


def _known(shard: Path, names: list[str]) -> tuple[str, str]:
    tell = "--columns image=...,label=..."
    return (
        named(f"the images of {shard}", IMAGES, names, tell),
        named(f"the labels of {shard}", LABELS, names, tell),
    )


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


def _labels(shard: Path, name: str, column: Any) -> Tensor | list[str]:
    """Labels int64 `[n]`, or the names of the classes."""
    import pyarrow as pa

    kind = column.type
    if column.null_count:
        raise ImagesError(f"{shard}: the column {name!r} has rows without a label")
    try:
        if pa.types.is_dictionary(kind) and _is_string(kind.value_type):
            # Never written out: a name may be long, and stand in every row.
            return [
                names[place]
                for chunk in column.chunks
                if (names := [str(text) for text in chunk.dictionary.to_pylist()])
                for place in chunk.indices.to_pylist()
            ]
        if _is_string(kind):
            return [str(text) for text in column.to_pylist()]
        if pa.types.is_boolean(kind):
            column, kind = column.cast(pa.int8()), pa.int8()
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            return torch.from_numpy(column.cast(pa.int64()).to_numpy().copy())
        if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
            return _one_hot(shard, name, column.combine_chunks())
    except pa.ArrowInvalid:
        raise ImagesError(
            f"{shard}: the column {name!r} holds numbers that are not whole, or beyond int64"
        ) from None
    raise ImagesError(
        f"{shard}: the column {name!r} must hold whole numbers, one-hot rows or names, not {kind}"
    )


def _is_string(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _one_hot(shard: Path, name: str, column: Any) -> Tensor:
    """Labels that are rows of numbers, all of one length, without making Python objects of them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lengths, kind = set(pc.list_value_length(column).to_pylist()), column.type.value_type
    numbers = column.flatten()
    plain = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if len(lengths) != 1 or not plain or numbers.null_count:
        raise ImagesError(
            f"{shard}: the column {name!r} must hold whole numbers, one-hot rows or names"
        )
    whole = numbers.to_numpy(zero_copy_only=False).reshape(len(column), -1)
    return labels_of_array(shard, f"the column {name!r}", whole)


def _pictures(shard: Path, column: Any) -> Iterator[Picture]:
    for row, cell in enumerate(column.to_pylist()):
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes):
            raise ImagesError(f"{shard}: row {row} holds no image bytes")
        yield Picture(f"{shard}: row {row}", data, turned=True)
