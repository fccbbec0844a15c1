"""Poisoned data in the layout of BackdoorBench, whose tools and this package read it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...core.errors import OutputError
from ...core.images import Images, Triggered
from .export import png
from .parts import CLEAN, Poisoned

RESULT, TRAIN, TEST = "attack_result.pt", "bd_train_dataset", "bd_test_dataset"


def export_backdoorbench(
    folder: Path, poisoned: Poisoned, triggered: Triggered, rows: Sequence[int], source: str
) -> tuple[Path, ...]:
    """What was written: `attack_result.pt` and, beside it, the changed images of both sets.

    `rows` are the numbers of the triggered images in the test set. A changed image lies at
    `<true label>/<number>.png`. The result names the `source` of the clean data and holds no model:
    `model` is an empty dict. Raises `OutputError` where nothing can be written.
    """
    images = poisoned.images
    changed = (poisoned.role != CLEAN).nonzero().flatten()
    true = poisoned.original[changed]
    indicator = np.zeros(len(images))
    indicator[changed.numpy()] = 1
    try:
        folder.mkdir(parents=True, exist_ok=True)
        train = _written(folder / TRAIN, images.pixels[changed], true.tolist(), changed.tolist())
        labels = triggered.images.labels.tolist()
        test = _written(folder / TEST, triggered.images.pixels, labels, rows)
        result = {
            "model_name": "",
            "num_classes": len(images.classes),
            "model": {},
            "data_path": source,
            "img_size": (*images.shape[1:], images.shape[0]),
            "clean_data": source,
            "bd_train": _data(
                TRAIN, train, list(zip(images.labels[changed].tolist(), true.tolist(), strict=True))
            )
            | {"poison_indicator": indicator, "original_index_array": np.arange(len(images))},
            "bd_test": _data(TEST, test, list(zip(triggered.goals.tolist(), labels, strict=True)))
            | {"poison_indicator": np.ones(len(rows)), "original_index_array": np.array(rows)},
        }
        torch.save(result, folder / RESULT)
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror or error}") from None
    return folder / RESULT, folder / TRAIN, folder / TEST


def _written(
    folder: Path, pixels: torch.Tensor, labels: Sequence[int], numbers: Sequence[int]
) -> dict[int, str]:
    """The path of each PNG file, relative to the result, by the number of its image."""
    folder.mkdir(exist_ok=True)
    paths = {}
    for picture, label, number in zip(pixels, labels, numbers, strict=True):
        (folder / str(label)).mkdir(exist_ok=True)
        (folder / str(label) / f"{number}.png").write_bytes(png(picture))
        paths[number] = f"{folder.name}/{label}/{number}.png"
    return paths


def _data(folder: str, paths: dict[int, str], labels: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """What a result says of its images: where they lie, and (new label, true label) of each."""
    rows = zip(paths.items(), labels, strict=True)
    return {
        "bd_data_container": {
            "save_folder_path": folder,
            "data_dict": {
                number: {"path": path, "other_info": list(pair)} for (number, path), pair in rows
            },
            "save_file_format": ".png",
        },
        "getitem_all": True,
        "getitem_all_switch": False,
        "save_folder_path": folder,
    }


def rows_of(part: Images, whole: Images) -> list[int]:
    """The numbers in `whole` of the images of `part`, which are some of them in the same order."""
    rows: list[int] = []
    place = 0
    for pixels, label in zip(part.pixels, part.labels.tolist(), strict=True):
        while whole.labels[place] != label or not torch.equal(whole.pixels[place], pixels):
            place += 1
        rows.append(place)
        place += 1
    return rows
