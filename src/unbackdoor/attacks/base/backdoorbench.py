"""Poisoned data in the layout of BackdoorBench, whose tools and this package read it.

What its loader asks for: the name of a data set that it knows; a `data_path` with "data" in it;
weights of the network that is named; `poison_indicator` over the whole set, where it looks up the
numbers of `original_index_array`; and paths of images from its own folder, in whose `record` the
result must lie.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ... import models
from ...core.errors import OutputError, UnbackdoorWarning
from ...core.images import Images, Triggered
from ...core.spec import Spec
from .export import FOLDERS, export_clean, png
from .parts import CLEAN, Poisoned

SETS = ("cifar10", "cifar100", "gtsrb", "tiny")
"""The data sets that BackdoorBench reads itself."""

RESULT, TRAIN, TEST = "attack_result.pt", "bd_train_dataset", "bd_test_dataset"


def export_backdoorbench(
    folder: Path,
    poisoned: Poisoned,
    clean: Images,
    triggered: Triggered,
    rows: Sequence[int],
    source: str,
    name: str,
) -> tuple[Path, ...]:
    """What was written: `attack_result.pt` and, beside it, the changed images of both sets.

    `rows` are the numbers of the triggered images in the test set `clean`, which is written as
    class folders. A changed image lies at `<true label>/<number>.png`; its path says that `folder`
    will be `record/<name>` of BackdoorBench. The result names the `source` of the clean data. No
    victim was trained: `model` holds fresh weights. Raises `OutputError` where nothing can be
    written.
    """
    images = poisoned.images
    changed = (poisoned.role != CLEAN).nonzero().flatten()
    true, place = poisoned.original[changed], f"./record/{name}"
    known = source.partition(":")[0]
    if Path(known).name not in SETS:
        warnings.warn(
            f"BackdoorBench reads the clean images of {', '.join(SETS)}, by name; the result "
            f"calls them {Path(known).name!r}",
            UnbackdoorWarning,
            stacklevel=3,
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        train = _written(folder / TRAIN, images.pixels[changed], true.tolist(), changed.tolist())
        labels = triggered.images.labels.tolist()
        test = _written(folder / TEST, triggered.images.pixels, labels, rows)
        pairs = list(zip(images.labels[changed].tolist(), true.tolist(), strict=True))
        result = {
            "model_name": "preactresnet18",
            "num_classes": len(images.classes),
            "model": _fresh(images),
            "data_path": f"./data/{Path(known).name}",
            "img_size": (*images.shape[1:], images.shape[0]),
            "clean_data": Path(known).name,
            "bd_train": _data(f"{place}/{TRAIN}", train, pairs, range(len(images)), len(images)),
            "bd_test": _data(
                f"{place}/{TEST}",
                test,
                list(zip(triggered.goals.tolist(), labels, strict=True)),
                rows,
                len(clean),
            ),
        }
        torch.save(result, folder / RESULT)
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror or error}") from None
    beside = export_clean(folder, clean, FOLDERS)
    return folder / RESULT, folder / TRAIN, folder / TEST, *beside


def _fresh(images: Images) -> dict[str, Tensor]:
    """Weights of an untrained PreActResNet18 for `images`, without which nothing is loaded."""
    channels = images.shape[0]
    values = (0.5,) * channels
    spec = Spec("preact_resnet18", images.classes, values, values, {"in_channels": channels})
    return models.create(spec, torch.Generator().manual_seed(0)).net.state_dict()


def _written(
    folder: Path, pixels: Tensor, labels: Sequence[int], numbers: Sequence[int]
) -> dict[int, str]:
    """The path of each PNG file below `folder`, by the number of its image."""
    folder.mkdir(exist_ok=True)
    paths = {}
    for picture, label, number in zip(pixels, labels, numbers, strict=True):
        (folder / str(label)).mkdir(exist_ok=True)
        (folder / str(label) / f"{number}.png").write_bytes(png(picture))
        paths[number] = f"{label}/{number}.png"
    return paths


def _data(
    folder: str,
    paths: dict[int, str],
    labels: Sequence[tuple[int, int]],
    rows: Sequence[int],
    total: int,
) -> dict[str, Any]:
    """What a result says of a set of `total` images, of which it shows those with numbers `rows`.

    Where the changed ones lie, and (new label, true label) of each.
    """
    indicator = np.zeros(total)
    indicator[list(paths)] = 1
    entries = {
        number: {"path": f"{folder}/{path}", "other_info": list(pair)}
        for (number, path), pair in zip(paths.items(), labels, strict=True)
    }
    return {
        "bd_data_container": {
            "save_folder_path": folder,
            "data_dict": entries,
            "save_file_format": ".png",
        },
        "getitem_all": True,
        "getitem_all_switch": False,
        "original_index_array": np.array(rows),
        "poison_indicator": indicator,
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
