"""What `attack --export` writes: the poisoned training set and the triggered test set."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from ..attacks.base.attack import ROLES, Attack, Poisoned, Victim
from ..attacks.base.backdoorbench import TEST, export_backdoorbench, rows_of
from ..attacks.base.export import TABLE, export, export_poison
from ..attacks.base.parts import Poison
from ..core.errors import OutputError
from ..core.images import Images, Triggered
from . import output
from .console import table


def check(folder: Path, out: Path, *, force: bool) -> None:
    """Raises `OutputError` where `folder` cannot be written to, or holds what is not to be lost.

    Or where nothing could write parquet: better now than after hours of training.
    """
    needs("parquet", "--export")
    if folder.absolute() == out.absolute():
        raise OutputError(f"--export and --out must be two folders, both are {out}")
    output.check(folder, force=force)
    for split in ("train", "test"):
        if (folder / split).exists() and not (folder / split / TABLE).is_file():
            raise OutputError(f"{folder / split} is no earlier export, so it is not replaced")


def needs(layout: str, wanted_by: str = "--layout parquet") -> None:
    """Raises `OutputError` where the layout cannot be written here."""
    if layout == "parquet" and find_spec("pyarrow") is None:
        raise OutputError(f"{wanted_by} needs pyarrow: pip install 'unbackdoor[data]'")


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
        return {"fixed": False, "why": f"{attack.name()} poisons images anew in every step"}
    return {"fixed": True, **counts(victim.poisoned)}


def counts(found: Poisoned) -> dict[str, int]:
    """How many training images have each role."""
    numbers = torch.bincount(found.role.long(), minlength=len(ROLES)).tolist()
    return dict(zip(ROLES, numbers, strict=True))


def triggered_in(layout: str) -> str:
    """Where the test images with the trigger lie in such a layout."""
    return TEST if layout == "backdoorbench" else "test_triggered"


def write_poison(
    out: Path,
    layout: str,
    attack: Attack,
    found: Poison,
    clean: Images,
    told: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes poisoned data and their record into `out`, or nothing; gives back the record.

    Triggered images of classes that are no source are not part of BackdoorBench's layout.
    """
    assert found.triggered
    with output.written(out) as half:
        if layout == "backdoorbench":
            rows = rows_of(attack.aimed(clean).images, clean)
            source = told["data"]["source"]
            both = found.poisoned, clean, found.triggered
            paths = export_backdoorbench(half, *both, rows, source, out.name)
        else:
            paths = export_poison(half, found, clean, layout)
        full = {**told, "written": [path.name for path in paths]}
        output.write_json(half / output.RECORD, full)
    return full


def shown(told: Mapping[str, Any]) -> Table:
    """What a person is shown of poisoned data."""
    kinds = zip(("clean", "triggered", "cover"), told["poisoned"].values(), strict=True)
    rows = [(f"{kind} training images", f"{count:,}") for kind, count in kinds]
    rows.append(("test images with the trigger", f"{told['triggered']['images']:,}"))
    return table(("", "images"), rows)
