"""Export: the poisoned training set and the triggered test set as files that others can read."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ...core.errors import ImagesError, OutputError
from ...core.files import whole
from ...core.images import Images, Triggered
from ...core.text import printable
from .attack import ROLES, STAMPED, Poisoned
from .parts import Poison

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
PLAIN = re.compile(r"[^\s./\\:*?\"<>|\x00-\x1f=+@-][^/\\:*?\"<>|\x00-\x1f]{0,50}")
"""What every file system takes as the name of a folder, and no spreadsheet as a formula."""

TABLE = "roles.csv"
"""What is said of each image of a folder of class folders."""

CLASSES = "classes.csv"
"""The class of each folder, in the order of the labels."""

Columns = Mapping[str, Sequence[Any]]


PARQUET, FOLDERS = "parquet", "folders"
BOTH = (PARQUET, FOLDERS)


def export_poison(folder: Path, found: Poison, clean: Images, layout: str) -> tuple[Path, ...]:
    """What was written into `folder`: all that a victim is trained and judged on.

    `train` is the poisoned training set, `test_clean` the test images as they are,
    `test_triggered` those that carry the trigger, and `test_triggered_elsewhere` those of classes
    that are no source, where a trigger is for some classes only. `layout` is `parquet` or
    `folders`; both are as in `export`. Raises `OutputError` where nothing can be written.
    """
    try:
        more = _of_training(found.poisoned)
        written = _write(folder, "train", found.poisoned.images, more, (layout,))
        written += export_clean(folder, clean, layout)
        for name, part in (("", found.triggered), ("_elsewhere", found.elsewhere)):
            if part is not None:
                split = f"test_triggered{name}"
                written += _write(folder, split, part.images, _of_test(part), (layout,))
        return written
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror or error}") from None


def export_clean(folder: Path, clean: Images, layout: str) -> tuple[Path, ...]:
    """What was written into `folder`: `test_clean`, the test images as they are.

    Raises `OutputError` where nothing can be written.
    """
    try:
        return _write(folder, "test_clean", clean, {}, (layout,))
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror or error}") from None


def export(folder: Path, poisoned: Poisoned | None, triggered: Triggered) -> tuple[Path, ...]:
    """What was written into `folder`: parquet files and image folders of training and test images.

    `train.parquet` and `test.parquet` are in the layout of Hugging Face image data sets, with
    class names in the metadata and lossless PNG images; `train/` and `test/` hold the same images
    in a folder for each class, of which some may be empty, `classes.csv` the class of each folder,
    and `roles.csv` what is said of each image. Every image has a
    `role` (clean, stamped or cover); training images have the label they are trained with and
    their `original` one, test images their true label and the attacker's `goal`. Without a fixed
    training set (`poisoned` is None) only the test set is written.
    Raises `OutputError` where nothing can be written.
    """
    written: tuple[Path, ...] = ()
    try:
        if poisoned is not None:
            written += _write(folder, "train", poisoned.images, _of_training(poisoned), BOTH)
        written += _write(folder, "test", triggered.images, _of_test(triggered), BOTH)
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror or error}") from None
    return written


def _of_training(poisoned: Poisoned) -> Columns:
    roles = [ROLES[role] for role in poisoned.role.tolist()]
    return {"role": roles, "original": poisoned.original.tolist()}


def _of_test(triggered: Triggered) -> Columns:
    goals = triggered.goals.tolist()
    return {"role": [ROLES[STAMPED]] * len(goals), "goal": goals}


def _write(
    folder: Path, split: str, images: Images, more: Columns, layouts: Sequence[str]
) -> tuple[Path, ...]:
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [png(pixels) for pixels in images.pixels]
    written = []
    if PARQUET in layouts:
        written.append(folder / f"{split}.parquet")
        _write_parquet(written[-1], pictures, images, more)
    if FOLDERS in layouts:
        written.append(folder / split)
        _write_folders(written[-1], pictures, images, more)
    return tuple(written)


def png(pixels: Tensor) -> bytes:
    """One image uint8 `[c, h, w]` as a PNG file; raises `ImagesError` for more than 4 channels."""
    channels = len(pixels)
    if channels not in MODES:
        raise ImagesError(f"a PNG file holds 1 to 4 channels, these images have {channels}")
    array = pixels.permute(1, 2, 0).contiguous().numpy()
    picture = Image.fromarray(array[..., 0] if channels == 1 else array, MODES[channels])
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _write_parquet(path: Path, pictures: list[bytes], images: Images, more: Columns) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise OutputError(
            f"writing {path.name} needs pyarrow: pip install 'unbackdoor[data]'"
        ) from None
    cells = [{"bytes": data, "path": f"{row}.png"} for row, data in enumerate(pictures)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {
        "image": pa.array(cells, kind),
        "label": pa.array(images.labels.tolist(), pa.int64()),
    }
    features: dict[str, Any] = {
        "image": {"_type": "Image"},
        "label": {"names": list(images.classes), "_type": "ClassLabel"},
    }
    for name, values in more.items():
        columns[name] = pa.array(values, pa.string() if name == "role" else pa.int64())
        dtype = "string" if name == "role" else "int64"
        features[name] = {"dtype": dtype, "_type": "Value"}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    with whole(path) as half:
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), half)


def _write_folders(folder: Path, pictures: list[bytes], images: Images, more: Columns) -> None:
    names = folder_names(images.classes)
    # A class without images has its folder, too: readers number classes by their folders.
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
    with (folder / CLASSES).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("folder", "class"), *zip(names, images.classes, strict=True)])
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "label", *more])
        labels = images.labels.tolist()
        for row, (label, data) in enumerate(zip(labels, pictures, strict=True)):
            place = f"{names[label]}/{row:06d}.png"
            (folder / place).write_bytes(data)
            table.writerow([place, label, *(values[row] for values in more.values())])


def folder_names(classes: Sequence[str]) -> list[str]:
    """A folder for each class, such that folders sorted as text are in the order of the classes.

    It is the class's name, or its number in as many digits as the others if not all names can be
    folders or their order is another one.
    """
    plain = all(
        PLAIN.fullmatch(name) and printable(name) == name and not name.endswith((" ", "."))
        for name in classes
    )
    distinct = len({name.lower() for name in classes}) == len(classes)
    if plain and distinct and sorted(classes) == list(classes):
        return list(classes)
    return [f"{i:04d}" for i in range(len(classes))]
