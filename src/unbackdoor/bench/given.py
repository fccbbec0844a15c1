"""Models that are there already: the `[[victims]]` of a grid, strangers' or your own.

Nothing is trained. A victim is known by the contents of its files, not by where they lie.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from pydantic import Field

from .. import data
from ..checkpoints import checkpoint
from ..core.errors import (
    CheckpointError,
    ImagesError,
    OutputError,
    ParameterError,
    UnknownNameError,
)
from ..core.files import sha256
from ..core.images import Images, Triggered
from ..models import Normalized
from .cell import Data, Strict, Table, Victim, strict
from .shelf import expanded


class Given(Strict):
    """A model that is there already. Without `triggered` it is a clean one."""

    name: str = Field(pattern=r"^[\w.-]+$", description="what tables and pages call it")
    model: str = Field(description="its checkpoint: a file, or a folder of the hub")
    data: str | None = Field(None, description="the [[data]] entry with its clean images")
    clean: str | None = Field(None, description="or: source of the defender's clean images")
    test: str | None = Field(None, description="or: source of its clean test images")
    size: int | None = Field(None, ge=1, description="height and width to resize these to")
    flip: bool | None = Field(None, description="whether a mirrored one is of its class still")
    triggered: str | None = Field(None, description="source of its triggered test images")
    target: int | Literal["all-to-all"] | None = Field(None, description="where these should go")
    arch: str | None = Field(None, description="its network, where the file does not say")
    options: Table = Field({}, description="options of the network")
    classes: int | list[str] | None = Field(None, description="how many classes, or their names")
    mean: list[float] | None = Field(None, description="of its inputs in [0, 1]")
    std: list[float] | None = Field(None, description="of its inputs in [0, 1]")
    weights: str | None = Field(None, description="which state dict, where the file holds several")
    clean_model: str | None = Field(
        None, description="the [[victims]] entry of a clean model, to measure it against"
    )


class Asked(Protocol):
    """What a grid asks of every victim."""

    @property
    def precision(self) -> str: ...  # noqa: D102
    @property
    def min_asr(self) -> float: ...  # noqa: D102
    @property
    def measures(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def training(self) -> Table: ...  # noqa: D102


@dataclass(frozen=True)
class Found:
    """A model that was read once, and all that its victims share; one victim a seed."""

    data: Data
    architecture: Table
    attack: Table | None
    given: Table
    files: Table
    clean: Found | None = None
    """The clean model that it is measured against."""

    def victim(self, seed: int, asked: Asked) -> Victim:
        """It as a victim of the grid."""
        title = f"{self.data.name}/{self.architecture['name']}/{self.given['name']}"
        told = (self.data.declaration(), self.architecture, self.attack, None, seed)
        return Victim(
            *(*told, asked.precision, asked.min_asr, title, self.given, self.files),
            clean=self.clean.victim(seed, asked) if self.clean else None,
            measures=tuple(asked.measures) if self.attack else (),
            flip=self.data.settings(asked.training, self.data.training).get("flip", True),
        )


def found(entries: Sequence[Any], sets: Sequence[Data], folder: Path) -> list[tuple[Data, Found]]:
    """Each model with the data set that it belongs to; each file is read and checked.

    Relative paths start from `folder`; `$NAME` in them is a variable of the environment.
    Raises `ParameterError`, `UnknownNameError` or `CheckpointError`.
    """
    every: dict[str, tuple[Data, Found]] = {}
    compared: dict[str, str | None] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise ParameterError(f"victims wants tables with a name, got {entry!r}")
        told = strict(Given, f"victim {entry['name']}", entry)
        if told.name in every or told.name == "none":
            raise ParameterError(f"victims: the name {told.name!r} is taken")
        _check(told)
        every[told.name] = _one(told, sets, folder)
        compared[told.name] = told.clean_model
    for name, other in compared.items():
        if other is not None:
            data_set, found = every[name]
            every[name] = data_set, replace(found, clean=_clean_for(name, found, other, every))
    return list(every.values())


def _clean_for(
    name: str, found: Found, other: str, every: Mapping[str, tuple[Data, Found]]
) -> Found:
    """The entry called `other`, which must be of a clean model with the classes of `found`."""
    where = f"clean_model of victim {name}"
    if other not in every:
        raise UnknownNameError.of(where, other, every)
    clean = every[other][1]
    if clean.attack is not None:
        raise ParameterError(f"{where}: {other} has triggered images, so it is no clean model")
    if found.attack is None:
        raise ParameterError(f"{where}: it has no triggered images to compare the models on")
    if clean.given["classes"] != found.given["classes"]:
        raise ParameterError(f"{where}: {other} has other classes")
    return clean


def load(victim: Victim) -> Normalized:
    """The model of a victim from its own file; raises `CheckpointError` if it is another now."""
    assert victim.given and victim.files
    path = Path(victim.files["model"])
    if content(path) != victim.given["model"]:
        raise CheckpointError(f"{path} changed while the bench ran")
    return _load(path, victim.files["said"])


def stamped(victim: Victim, like: tuple[int, int, int], classes: Sequence[str]) -> Triggered | None:
    """Its triggered test images, in the shape (channels, height, width) of the clean ones.

    None for a clean model. Raises `ImagesError` where the file itself names other targets.
    """
    assert victim.files
    if victim.attack is None:
        return None
    source, count = victim.files["triggered"], len(classes)
    target: data.Goal = "all-to-all" if victim.attack["all_to_all"] else victim.attack["target"]
    read = data.open_triggered(
        source, target, size=like[1:], channels=like[0], classes=tuple(classes)
    )
    labels = read.images.labels
    goals = torch.full_like(labels, target) if isinstance(target, int) else (labels + 1) % count
    if not torch.equal(goals, read.goals):
        raise ImagesError(f"{source} itself names another target than {target}")
    return read


def beside(stamped: Images, test: Images) -> Images:
    """For each triggered image the nearest (L2) `test` image of its class; for pages only."""
    places = []
    for pixels, label in zip(stamped.pixels, stamped.labels, strict=True):
        same = torch.nonzero(test.labels == label).flatten()
        same = same if len(same) else torch.arange(len(test))
        far = (test.pixels[same].float() - pixels.float()).flatten(1).square().sum(1)
        places.append(int(same[far.argmin()]))
    return Images(test.pixels[places], stamped.labels, test.classes)


def _check(told: Given) -> None:
    where = f"victim {told.name}"
    if (told.data is None) != bool(told.clean and told.test):
        raise ParameterError(f"{where}: give data, the name of a [[data]] entry, or clean and test")
    if told.data is not None and (told.clean or told.test or told.size or told.flip is not None):
        raise ParameterError(f"{where}: clean, test, size and flip are those of its data")
    if (told.triggered is None) != (told.target is None):
        raise ParameterError(f"{where}: triggered and target belong together; only one is given")


def _one(told: Given, sets: Sequence[Data], folder: Path) -> tuple[Data, Found]:
    path = path_of(told.model, folder)
    said = told.model_dump(include={*_SAID})
    model = _load(path, said)
    files: Table = {"model": str(path), "said": said}
    given: Table = {"name": told.name, "model": content(path), "triggered": None}
    attack = None
    if told.triggered is not None:
        source = _source(told.triggered, folder)
        files["triggered"] = source
        given["triggered"] = _hash(source)
        every = told.target == "all-to-all"
        attack = {"name": told.name, "target": None if every else told.target, "all_to_all": every}
    if told.data is None:
        assert told.clean and told.test
        sources = {"name": told.name, "train": told.clean, "test": told.test, "size": told.size}
        sources["flip"] = told.flip
        own = strict(Data, f"victim {told.name}", sources)
        for name, text in (("train", told.clean), ("test", told.test)):
            files[name] = _source(text, folder)
            given[name] = _hash(files[name])
    else:
        known = {data_set.name: data_set for data_set in sets}
        if told.data not in known:
            raise UnknownNameError.of(f"data of victim {told.name}", told.data, known)
        own = known[told.data]
        files |= places(own, folder)
    spec = model.spec
    architecture = {"name": spec.arch, "options": dict(spec.options)}
    given |= {"classes": list(spec.classes), "mean": list(spec.mean), "std": list(spec.std)}
    given |= {"channels": model.channels, "weights": told.weights}
    plain: Table = json.loads(json.dumps({"architecture": architecture, "given": given}))
    return own, Found(own, plain["architecture"], attack, plain["given"], files)


_SAID = ("arch", "options", "classes", "mean", "std", "weights")


def _load(path: Path, said: Table) -> Normalized:
    return checkpoint.load(path, **{**said, "options": said["options"] or None})


def path_of(text: str, folder: Path) -> Path:
    """The path `text`, from `folder` where it is relative, its `$NAME` replaced."""
    return (folder / expanded(text)).absolute()


def places(data_set: Data, folder: Path) -> Table:
    """Where the sources of a data set are."""
    sources = {"train": data_set.train, "test": data_set.test}
    return {part: placed(source, folder) for part, source in sources.items() if source}


def placed(text: str, folder: Path) -> str:
    """Where a source of `[[data]]` is: from the working folder, but with a `$NAME` as `_source`.

    So that one variable means one folder in all of a grid. The text, not the place, is identity.
    """
    return _source(text, folder) if "$" in text else text


def _source(text: str, folder: Path) -> str:
    """A path from the grid's folder where there is one, else a source by its name."""
    path = path_of(text, folder)
    return str(path) if path.exists() else expanded(text)


def _hash(source: str) -> str:
    return content(Path(source)) if Path(source).exists() else source


@cache
def content(path: Path) -> str:
    """A hash of a file, or of all files of a folder and their names."""
    try:
        if path.is_file():
            return sha256(path)
        inner = sorted(part for part in path.rglob("*") if part.is_file())
        told = [(os.fspath(part.relative_to(path)), sha256(part)) for part in inner]
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror or error}") from None
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()
