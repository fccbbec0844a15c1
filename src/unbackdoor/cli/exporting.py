"""What `attack --export` writes: the poisoned training set and the stamped test set."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ..attacks.base.attack import ROLES, Attack, Victim
from ..attacks.base.export import TABLE, export
from ..core.errors import OutputError
from ..core.images import Triggered
from . import output


def check(folder: Path, out: Path, *, force: bool) -> None:
    """Raises `OutputError` where `folder` cannot be written to, or holds what is not to be lost.

    Or where nothing could write parquet: better now than after hours of training.
    """
    if find_spec("pyarrow") is None:
        raise OutputError("--export needs pyarrow: pip install 'unbackdoor[data]'")
    if folder.absolute() == out.absolute():
        raise OutputError(f"--export and --out must be two folders, both are {out}")
    output.check(folder, force=force)
    for split in ("train", "test"):
        if (folder / split).exists() and not (folder / split / TABLE).is_file():
            raise OutputError(f"{folder / split} is no earlier export, so it is not replaced")


def write(
    folder: Path, victim: Victim, stamped: Triggered, out: Path, told: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes both sets into `folder`, or nothing; gives back the record, which now says so.

    The victim and its record lie in `out` already, so a full disk costs no victim.
    """
    with output.written(folder) as half:
        paths = export(half, victim.poisoned, stamped)
    exported = {"folder": str(folder), "written": [path.name for path in paths]}
    full = {**told, "export": exported}
    with output.written(out) as half:
        output.write_json(half / output.RECORD, full)
    return full


def poisoned(attack: Attack, victim: Victim) -> dict[str, Any]:
    """What a record says of the training set: the images of each role, or why there is none."""
    if victim.poisoned is None:
        return {"fixed": False, "why": f"{attack.name()} stamps images anew in every step"}
    counts = torch.bincount(victim.poisoned.role.long(), minlength=len(ROLES)).tolist()
    return {"fixed": True, **dict(zip(ROLES, counts, strict=True))}
