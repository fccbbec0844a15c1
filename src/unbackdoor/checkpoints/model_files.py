"""What a model file says: its weights, and what it tells about them. One reader a format."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import safe_open
from torch import Tensor

from ..core.errors import CheckpointError, RefusedFileError, listed
from ..core.files import existing
from .candidates import Candidate, candidates
from .untrusted import Opened, one_line, open_torch

AVERAGED = re.compile(r"(?i)ema|swa|averag")
"""Where a file keeps averages of the weights beside them."""

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


@dataclass(frozen=True, eq=False)
class Stored:
    """A model file as read.

    `kind` says what the file is, `candidates` the state dicts in it (the most likely first),
    `header` what it tells of the model, `foreign` the names in it that only code could use (they
    were kept out), `notes` what a person should know.
    """

    kind: str
    candidates: tuple[Candidate, ...]
    header: Header = field(default_factory=lambda: Header())
    foreign: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The most likely weights."""
        return self.candidates[0].weights


SAFETENSORS = "a safetensors file"


def read(path: Path) -> Stored:
    """The contents of a model file of any name: what it is stands in its first bytes.

    Raises `CheckpointError` for a file that cannot be read or holds no weights, `RefusedFileError`
    for one whose weights only code could make.
    """
    with existing(path).open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{":
        return _safetensors(path)
    return _torch(path)


def _safetensors(path: Path) -> Stored:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # noqa: BLE001 - a stranger's bytes can make it raise anything
        raise _unreadable(path, error) from None
    return Stored(SAFETENSORS, (Candidate("", weights),), read_header(path))


def read_header(path: Path) -> Header:
    """The header of a `.safetensors` file: text values, each JSON but for the architecture's."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            texts: Mapping[str, str] = file.metadata() or {}
    except Exception as error:  # noqa: BLE001 - a stranger's bytes can make it raise anything
        raise _unreadable(path, error) from None
    told: dict[str, Any] = {}
    for name in Header.model_fields.keys() & texts.keys():
        try:
            told[name] = texts[name] if name == "arch" else json.loads(texts[name])
        except (ValueError, RecursionError):
            raise CheckpointError(f"{path}: {name} in its header is not JSON") from None
    return header_of(path, told)


def _unreadable(path: Path, error: BaseException) -> CheckpointError:
    reason = str(error).partition("\n")[0][:100]
    return CheckpointError(f"{path} is no readable safetensors file, or is truncated ({reason})")


def header_of(path: Path, told: Mapping[str, Any]) -> Header:
    """What `path` tells, checked; raises `CheckpointError` for a value of the wrong kind."""
    try:
        return Header.model_validate(told)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"][:2]))
        raise CheckpointError(f"{path}: {place} in its header: {first['msg'].lower()}") from None


def _torch(path: Path) -> Stored:
    opened = open_torch(path)
    value = opened.value
    with one_line(path):
        found = _likely(candidates(value))
    if not found:
        raise _no_weights(path, opened)
    if isinstance(value, dict) and {"model_name", "num_classes", "model"} <= value.keys():
        header, notes = _backdoorbench(path, value)
        return Stored("a BackdoorBench result", found, header, opened.foreign, notes)
    return Stored(opened.kind, found, foreign=opened.foreign)


def _likely(found: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
    """Averages after what they are averages of, and states of optimizers last."""
    by_name = sorted(found, key=lambda one: bool(AVERAGED.search(one.where)))
    return tuple(sorted(by_name, key=lambda one: "optim" in one.where.lower()))


def _no_weights(path: Path, opened: Opened) -> CheckpointError:
    if opened.foreign:
        return RefusedFileError(
            f"{path} was refused: it holds no weights but what {listed(opened.foreign)} would make "
            "of them by running code; nothing in it was run. Ask for a file of model.state_dict()"
        )
    return CheckpointError(f"{path} is {opened.kind}, but holds no state dict: no named tensors")


BENCH_NAMES = {"preactresnet18": "preact_resnet18"}
"""BackdoorBench's names of networks that are called otherwise here."""

BENCH_SCALES = {
    "cifar10": ([0.4914, 0.4822, 0.4465], [0.247, 0.243, 0.261]),
    "cifar100": ([0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]),
    "gtsrb": ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
    "tiny": ([0.4802, 0.4481, 0.3975], [0.2302, 0.2265, 0.2262]),
}
"""The mean and std that its models are trained with, by data set; a result does not hold them."""


def _backdoorbench(path: Path, found: Mapping[str, Any]) -> tuple[Header, tuple[str, ...]]:
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
    size = found.get("img_size")
    if isinstance(size, tuple | list) and len(size) >= 2 and all(type(s) is int for s in size[:2]):
        told["size"] = list(size[:2])
    notes = []
    if isinstance(data, str) and data in BENCH_SCALES:
        told["mean"], told["std"] = BENCH_SCALES[data]
        notes.append(
            f"{path.name} does not say how its inputs are normalised; using BackdoorBench's mean "
            f"{told['mean']} and std {told['std']} for {data} (mean and std change this)"
        )
    return header_of(path, told), tuple(notes)


def plain(tensor: Tensor) -> bool:
    """Whether `tensor` holds each of its numbers, on the CPU: not sparse, quantized or expanded."""
    return (
        tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    )
