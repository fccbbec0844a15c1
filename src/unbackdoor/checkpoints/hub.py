"""Folders as `transformers` and `timm` write them: weights, and JSON that says what they are.

Only JSON and weights are read. A folder may bring code of its own; it is never run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import models
from ..core.errors import CheckpointError, listed
from . import model_files
from .candidates import Candidate
from .model_files import Stored

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"
LARGEST = 16 * 2**20
"""Bytes of JSON that are read; a list of 20,000 classes takes less than one MiB."""

SET_HERE = ("num_classes", "pretrained", "num_labels")


def folder_of(path: Path) -> Path | None:
    """The hub's folder that `path` is, or is the weights of; None if it is neither."""
    if path.is_dir():
        return path
    beside = path.parent if path.name in WEIGHTS else None
    if beside and (beside / CONFIG).is_file():
        config = _json(beside / CONFIG)
        return beside if _kind(config) else None
    return None


def weights_file(path: Path) -> Path:
    """The file that holds the weights of `path`, a model file or a folder of the hub.

    Raises `CheckpointError` for a folder without one.
    """
    if not path.is_dir():
        return path
    for name in WEIGHTS:
        for file in (path / name, path / f"{name}{INDEX}"):
            if file.is_file():
                return file
    raise CheckpointError(f"{path} is a folder without {' or '.join(WEIGHTS)}")


def companions(path: Path) -> tuple[Path, ...]:
    """The JSON files that the library needs beside weights of the folder `path` to load them."""
    folder = folder_of(path)
    files = [folder / name for name in (CONFIG, PREPROCESSOR)] if folder else []
    return tuple(file for file in files if file.is_file())


def read(folder: Path) -> Stored:
    """The model in `folder`: architecture, options, class names, mean, std and size from its JSON.

    Raises `CheckpointError` for a folder that says no architecture known here, or is damaged.
    """
    if not (folder / CONFIG).is_file():
        raise CheckpointError(
            f"{folder} is a folder without {CONFIG}: no folder of the hub; name the model file"
        )
    file = weights_file(folder)
    config = _json(folder / CONFIG)
    kind = _kind(config)
    if kind is None:
        raise CheckpointError(
            f"{folder / CONFIG} names no architecture: neither 'model_type' (transformers) nor "
            "'architecture' (timm)"
        )
    told, notes = (_timm if kind == "timm" else _transformers)(folder, config)
    if "auto_map" in config:
        notes.append(f"{folder.name} asks for code of its own (auto_map): it was not run")
    header = model_files.header_of(folder / CONFIG, told)
    return Stored(kind, (Candidate("", _weights(file)),), header, notes=tuple(notes))


def _kind(config: Mapping[str, Any]) -> str | None:
    if isinstance(config.get("architecture"), str):
        return "timm"
    return "transformers" if isinstance(config.get("model_type"), str) else None


def _weights(file: Path) -> Mapping[str, Tensor]:
    if not file.name.endswith(INDEX):
        return model_files.read(file).weights
    places = _json(file).get("weight_map")
    if not isinstance(places, dict):
        raise CheckpointError(f"{file} has no weight_map")
    weights: dict[str, Tensor] = {}
    for name in sorted({str(place) for place in places.values()}):
        if Path(name).name != name:
            raise CheckpointError(f"{file} names {name[:80]!r}, which is not a file beside it")
        weights.update(model_files.read(file.parent / name).weights)
    return weights


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST:
            raise CheckpointError(f"{path} is larger than {LARGEST >> 20} MiB")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is not readable JSON") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is JSON, but not an object")
    return found


def _timm(folder: Path, config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    shown = config.get("pretrained_cfg")
    shown = shown if isinstance(shown, dict) else config
    given = config.get("model_args")
    options = {
        name: value
        for name, value in (given if isinstance(given, dict) else {}).items()
        if name not in SET_HERE and value is not None
    }
    if options.get("in_chans") == 3:
        del options["in_chans"]
    names = config.get("label_names") or shown.get("label_names")
    count = config.get("num_classes") or shown.get("num_classes")
    size = shown.get("input_size")
    notes = []
    if names is None and isinstance(count, int) and 0 < count <= model_files.MOST_CLASSES:
        names = [str(label) for label in range(count)]
        notes.append(f"{folder.name} does not name its classes: they are numbered 0 to {count - 1}")
    told = {
        "arch": f"timm:{config['architecture']}",
        "options": options,
        "classes": names,
        "mean": _numbers(shown.get("mean")),
        "std": _numbers(shown.get("std")),
        "size": size[1:] if isinstance(size, list) and len(size) == 3 else None,
    }
    return told, notes


def _transformers(folder: Path, config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    family = str(config["model_type"])
    arch = f"transformers:{family}"
    known = models.fields(arch)
    made = config.get("architectures")
    if isinstance(made, list) and made and not str(made[0]).endswith("ForImageClassification"):
        raise CheckpointError(f"{folder} holds a {str(made[0])[:80]}, not an image classifier")
    options = {name: config[name] for name in known if config.get(name) is not None}
    # A pair of equal sides, as some configurations say it, is one side.
    for name in ("image_size", "patch_size"):
        sides = options.get(name)
        if isinstance(sides, list) and len(sides) == 2 and sides[0] == sides[1]:
            options[name] = sides[0]
    told: dict[str, Any] = {"arch": arch, "options": options}
    notes: list[str] = []
    names = _id2label(folder, config)
    if names and all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        notes.append(
            f"{folder.name} does not name its classes: they are numbered 0 to {len(names) - 1}"
        )
        names = [str(label) for label in range(len(names))]
    told["classes"] = names
    if (folder / PREPROCESSOR).is_file():
        told |= _preprocessing(folder, _json(folder / PREPROCESSOR), notes)
    return told, notes


def _id2label(folder: Path, config: Mapping[str, Any]) -> list[str] | None:
    """The names of the classes in the order of their numbers."""
    said = config.get("id2label")
    if not isinstance(said, dict) or not said:
        return None
    if set(said) != {str(label) for label in range(len(said))}:
        raise CheckpointError(
            f"{folder / CONFIG}: id2label does not number its classes from 0 on: "
            f"{listed(map(str, said))}"
        )
    return [str(said[str(label)]) for label in range(len(said))]


def _preprocessing(
    folder: Path, said: Mapping[str, Any], notes: list[str]
) -> dict[str, list[float] | list[int] | None]:
    """mean, std and size for images in [0, 1]; what it does beside that becomes a note."""
    # It scales pixels of 0 to 255 first; ours come in [0, 1].
    factor = said.get("rescale_factor", 1 / 255) if said.get("do_rescale", True) else 1.0
    whole = 255 * factor if isinstance(factor, int | float) and factor > 0 else 1.0
    mean, std = _numbers(said.get("image_mean")), _numbers(said.get("image_std"))
    if said.get("do_normalize", True) is False or mean is None or std is None:
        mean, std = [0.0] * 3, [1.0] * 3
    size = _sides(said.get("crop_size")) if said.get("do_center_crop") else None
    full = _sides(said.get("size"))
    size = size or full
    crop = said.get("crop_pct")
    if (full and size != full) or (crop and not said.get("do_center_crop") and crop != 1):
        notes.append(f"{folder.name} crops its images; here they are given whole, resized")
    return {
        "mean": [value / whole for value in mean],
        "std": [value / whole for value in std],
        "size": size,
    }


def _sides(said: object) -> list[int] | None:
    """Height and width, as the versions of transformers have said them."""
    if isinstance(said, int) and not isinstance(said, bool):
        return [said, said]
    if isinstance(said, dict):
        if {"height", "width"} <= said.keys():
            return [said["height"], said["width"]]
        if isinstance(said.get("shortest_edge"), int):
            return [said["shortest_edge"]] * 2
    return None


def _numbers(said: object) -> list[float] | None:
    if not isinstance(said, list | tuple) or not said:
        return None
    return [float(x) for x in said] if all(isinstance(x, int | float) for x in said) else None
