"""What `attack --export` writes: the poisoned training set and the stamped test set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..attack import ROLES, Attack, Victim
from ..errors import OutputError
from ..export import TABLE, export
from ..images import Triggered
from . import output


def check(folder: Path, out: Path, *, force: bool) -> None:
    """Raises `OutputError` where `folder` cannot be written to, or holds what is not to be lost."""
    if folder.absolute() == out.absolute():
        raise OutputError(f"--export and --out must be two folders, both are {out}")
    output.check(folder, force=force)
    for split in ("train", "test"):
        if (folder / split).exists() and not (folder / split / TABLE).is_file():
            raise OutputError(f"{folder / split} is no earlier export, so it is not replaced")


def write(folder: Path, victim: Victim, stamped: Triggered) -> dict[str, Any]:
    """Writes both sets into `folder`, or nothing; gives back what a record says of them."""
    with output.written(folder) as half:
        paths = export(half, victim.poisoned, stamped)
    return {"folder": str(folder), "written": [path.name for path in paths]}


def poisoned(attack: Attack, victim: Victim) -> dict[str, Any]:
    """What a record says of the training set: the images of each role, or why there is none."""
    if victim.poisoned is None:
        return {"fixed": False, "why": f"{attack.name()} stamps images anew in every step"}
    counts = torch.bincount(victim.poisoned.role.long(), minlength=len(ROLES)).tolist()
    return {"fixed": True, **dict(zip(ROLES, counts, strict=True))}
