"""What a model file says: its weights, and what it tells about them. One reader a format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..core.errors import CheckpointError, listed
from .untrusted import MALFORMED, read_torch

NESTED = ("state_dict", "model", "net")
"""Where a torch file may keep its state dict."""

MOST_CLASSES = 100_000


Word = Annotated[str, Field(pattern=r"^[a-z0-9_]{0,40}$")]


class Header(BaseModel):
    """What a file tells beside its weights; whatever it leaves out is None or empty."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    arch: str | None = None
    classes: list[str] | None = Field(default=None, min_length=1, max_length=MOST_CLASSES)
    mean: list[float] | None = Field(default=None, min_length=1)
    std: list[float] | None = Field(default=None, min_length=1)
    options: dict[str, bool | int | float | Word | list[int]] = {}
    size: list[int] | None = Field(default=None, min_length=2, max_length=2)
    provenance: dict[str, Any] = {}


@dataclass(frozen=True)
class Stored:
    """A model file as read: weights by name, what it tells, and what a person should know."""

    weights: Mapping[str, Tensor]
    header: Header = field(default_factory=lambda: Header())
    notes: tuple[str, ...] = ()


def read(path: Path) -> Stored:
    """The contents of a `.safetensors`, `.pt` or `.pth` file.

    Raises `CheckpointError` for a file that cannot be read, `RefusedFileError` for one that would
    run code.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file" if path.exists() else f"no such file: {path}")
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix in (".pt", ".pth"):
        return _torch(path)
    raise CheckpointError(f"{path} is no kind of model file known here: .safetensors, .pt or .pth")


def _safetensors(path: Path) -> Stored:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, *MALFORMED) as error:
        raise _unreadable(path, error) from None
    return Stored(weights, read_header(path))


def read_header(path: Path) -> Header:
    """The header of a `.safetensors` file: text values, each JSON but for the architecture's."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            texts: Mapping[str, str] = file.metadata() or {}
    except (SafetensorError, *MALFORMED) as error:
        raise _unreadable(path, error) from None
    told: dict[str, Any] = {}
    for name in Header.model_fields.keys() & texts.keys():
        try:
            told[name] = texts[name] if name == "arch" else json.loads(texts[name])
        except (json.JSONDecodeError, RecursionError):
            raise CheckpointError(f"{path}: {name} in its header is not JSON") from None
    return header(path, told)


def _unreadable(path: Path, error: BaseException) -> CheckpointError:
    reason = str(error).partition("\n")[0][:100]
    return CheckpointError(f"{path} is no readable safetensors file, or is truncated ({reason})")


def header(path: Path, told: Mapping[str, Any]) -> Header:
    """What `path` tells, checked; raises `CheckpointError` for a value of the wrong kind."""
    try:
        return Header.model_validate(told)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"][:2]))
        raise CheckpointError(f"{path}: {place} in its header: {first['msg'].lower()}") from None


def _torch(path: Path) -> Stored:
    found = read_torch(path)
    if isinstance(found, dict) and {"model_name", "num_classes", "model"} <= found.keys():
        return _backdoorbench(path, found)
    while isinstance(found, dict) and (name := next((n for n in NESTED if n in found), None)):
        if not isinstance(found[name], dict):
            break
        found = found[name]
    return Stored(_weights(path, found))


def _weights(path: Path, found: object) -> dict[str, Tensor]:
    if not isinstance(found, dict) or not found:
        raise CheckpointError(
            f"{path} holds a {type(found).__name__}, not a state dict (nor one under "
            f"{', '.join(NESTED)})"
        )
    strange = [
        str(name)[:80]
        for name, value in found.items()
        if not isinstance(name, str) or not isinstance(value, Tensor)
    ]
    if strange:
        raise CheckpointError(f"{path} is not a state dict: {listed(strange)} hold no tensors")
    return found


BENCH_NAMES = {"preactresnet18": "preact_resnet18"}
"""BackdoorBench's names of networks that are called otherwise here."""

BENCH_SCALES = {
    "cifar10": ([0.4914, 0.4822, 0.4465], [0.247, 0.243, 0.261]),
    "cifar100": ([0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]),
    "gtsrb": ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
    "tiny": ([0.4802, 0.4481, 0.3975], [0.2302, 0.2265, 0.2262]),
}
"""The mean and std that its models are trained with, by data set; a result does not hold them."""


def _backdoorbench(path: Path, found: Mapping[str, Any]) -> Stored:
    name, count, data = found["model_name"], found["num_classes"], found.get("clean_data")
    if (
        not isinstance(name, str)
        or isinstance(count, bool)
        or not isinstance(count, int | np.integer)
    ):
        raise CheckpointError(f"{path}: model_name must be text and num_classes a whole number")
    if not 1 <= count <= MOST_CLASSES:
        raise CheckpointError(f"{path}: num_classes is {count}, not from 1 to {MOST_CLASSES}")
    told: dict[str, Any] = {
        "arch": BENCH_NAMES.get(name, name),
        "classes": [str(label) for label in range(count)],
    }
    notes = []
    if isinstance(data, str) and data in BENCH_SCALES:
        told["mean"], told["std"] = BENCH_SCALES[data]
        notes.append(
            f"{path.name} does not say how its inputs are normalised; using BackdoorBench's mean "
            f"{told['mean']} and std {told['std']} for {data} (mean and std change this)"
        )
    side = found.get("img_size")
    if isinstance(side, list | tuple) and len(side) == 3:
        told["size"] = list(side[:2])
    return Stored(_weights(path, found["model"]), header(path, told), tuple(notes))


def plain(tensor: Tensor) -> bool:
    """Whether `tensor` holds each of its numbers, on the CPU: not sparse, quantized or expanded."""
    return (
        tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    )
