"""`[training] start`: victims that are fine-tuned from a trained model, not trained from nothing.

So most backdoors come into real models: somebody takes a trained model and goes on training it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ..checkpoints import checkpoint
from ..core.errors import CheckpointError, ParameterError
from ..core.images import Images
from ..core.measure import check
from ..models import Normalized
from .cell import Table, Victim
from .given import content, path_of

CLEAN = "clean"
"""`start` for the grid's own clean model; a file of that name is `./clean`."""


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
        return {"training": clean.training}, None
    path = path_of(told, folder)
    _load(path, clean)
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
    network = like.architecture
    return checkpoint.load(path, arch=network["name"], options=network["options"] or None)
