"""Files a stranger might send: pickles that try to run something, BackdoorBench results."""

import io
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from unbackdoor import models
from unbackdoor.checkpoints import checkpoint
from unbackdoor.core.spec import Spec


class Runs:
    """Pickled as a call of `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def touches(marker: Path) -> Runs:
    return Runs(os.system, f"touch {marker}")


def bench_result(folder: Path, weights: dict, rows, **changes) -> Path:
    """An `attack_result.pt`, beside it an image for each (goal, label), as gray as its index."""
    entries = {}
    for index, (goal, label) in enumerate(rows):
        place = folder / "bd_test_dataset" / str(label) / f"{index}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (index, index, index)).save(place)
        entries[np.int64(index)] = {
            "path": f"./record/there/bd_test_dataset/{label}/{index}.png",
            "other_info": [goal, np.int64(label)],
        }
    test = {
        "bd_data_container": {
            "save_folder_path": "./record/there/bd_test_dataset",
            "data_dict": entries,
            "save_file_format": ".png",
        },
        "getitem_all": True,
        "getitem_all_switch": False,
        "original_index_array": np.arange(len(entries)),
        "poison_indicator": np.ones(len(entries)),
        "save_folder_path": "./record/there/bd_test_dataset",
    }
    result = {
        "model_name": "preactresnet18",
        "num_classes": 3,
        "model": weights,
        "data_path": "./data",
        "img_size": (8, 8, 3),
        "clean_data": "cifar10",
        "bd_train": None,
        "bd_test": test,
    }
    path = folder / "attack_result.pt"
    torch.save(result | changes, path)
    return path


def small_model(path: Path, classes=("cat", "dog", "eel"), **spec) -> Path:
    """A model that opens: the smallest of ours, for images of 16 pixels a side."""
    options = {"width": 1, "hidden": 1, "in_channels": 3, "side": 16}
    told = Spec("badnet_cnn", tuple(classes), (0.5,), (0.5,), options, **spec)
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(models.create(told), path, {})
    return path


def png(level: int = 0, side: int = 16, **said) -> bytes:
    """A small image of one gray."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), (level, level, level)).save(file, "PNG", **said)
    return file.getvalue()
