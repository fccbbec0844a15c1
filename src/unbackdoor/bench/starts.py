"""Starts: victims and clean models that are fine-tuned from a trained model.

So most backdoors come into real models: somebody takes a trained model and goes on training it.
`[training] start` is what victims start from, `start` of an architecture what its clean model does.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from ..checkpoints import checkpoint
from ..core.errors import CheckpointError, ParameterError
from ..core.images import Images
from ..core.measure import check
from ..models import Normalized
from .cell import Strict, Table, Victim, strict
from .given import content, path_of

CLEAN = "clean"
"""`start` for the grid's own clean model; a file of that name is `./clean`."""


class Checkpoint(Strict):
    """`start` of an architecture: a checkpoint, and what a bare state dict does not say."""

    model: str = Field(description="path of the checkpoint")
    mean: list[float] | None = Field(None, description="of its inputs in [0, 1]")
    std: list[float] | None = Field(None, description="of its inputs in [0, 1]")


def published(told: Any, clean: Victim, folder: Path) -> Victim:
    """The `clean` model as it starts from the checkpoint that its architecture names, if it does.

    A path starts from `folder`. Raises `ParameterError`, also where nothing would train it, and
    `CheckpointError` for a file that does not fit the network.
    """
    if told is None:
        if clean.training and not clean.training["epochs"]:
            raise ParameterError("training: with epochs = 0 the clean model is not trained")
        return clean
    found = strict(Checkpoint, f"start of {clean.architecture['name']}", _table(told))
    path = path_of(found.model, folder)
    scale = found.model_dump(include={"mean", "std"}, exclude_none=True)
    start = {"sha256": content(path), **scale}
    clean = replace(clean, start=start, files={**(clean.files or {}), "start": str(path)})
    _load(path, clean)
    return clean


def _table(told: Any) -> Table:
    table = {"model": told} if isinstance(told, str) else told
    if not isinstance(table, dict):
        raise ParameterError(f"start of an architecture is a path or a table, got {told!r}")
    return table


def read(told: Any, clean: Victim, folder: Path) -> tuple[Table | None, Table | None]:
    """(declaration, places of files) of `start = told` for the victims of a network and data set.

    `clean` is their clean model. A path starts from `folder`; `$NAME` in it is a variable of the
    environment. Raises `ParameterError` for no text and `CheckpointError` for a file that does
    not fit the network.
    """
    if told is None:
        return None, None
    if not isinstance(told, str):
        raise ParameterError(f'training: start is a path or "{CLEAN}", got {told!r}')
    if told == CLEAN:
        own = {"start": clean.start} if clean.start else {}
        return {"training": clean.training, **own}, None
    path = path_of(told, folder)
    _load(path, replace(clean, start=None))
    return {"sha256": content(path)}, {"start": str(path)}


def from_file(victim: Victim, train: Images) -> Normalized:
    """The model of the checkpoint that `victim` starts from, for the classes of `train`.

    Raises `CheckpointError` for a file that changed, and `ParameterError` where its classes are
    not those of `train`.
    """
    assert victim.start and victim.files
    path = Path(victim.files["start"])
    if content.__wrapped__(path) != victim.start["sha256"]:
        raise CheckpointError(f"{path} changed while the bench ran")
    model = _load(path, victim)
    known, wanted = model.spec.classes, train.classes
    if len(known) != len(wanted) or (known != wanted and sorted(known) == sorted(wanted)):
        raise ParameterError(
            f"{path} has the classes {', '.join(known[:10])}; the training images have "
            f"{', '.join(wanted[:10])}"
        )
    model.spec = replace(model.spec, classes=wanted, size=train.shape[1:])
    check(model, train)
    return model


def _load(path: Path, like: Victim) -> Normalized:
    network, start = like.architecture, like.start or {}
    return checkpoint.load(
        path,
        arch=network["name"],
        options=network["options"] or None,
        mean=start.get("mean"),
        std=start.get("std"),
    )
