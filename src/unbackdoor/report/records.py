"""The records of a bench's folder, checked to hold what pages and tables are made of."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..bench.store import FORMAT, Kind, Record, Store
from ..core.errors import ParameterError, UnbackdoorWarning

VICTIM = (
    *("data.name", "data.train", "data.test", "architecture.name", "architecture.options"),
    *("attack", "training", "seed"),
)
MADE = (
    *("id", "status", "flags", "warnings", "unbackdoor", "started", "threads", "device"),
    *("precision", "versions", "machine.cpu", "machine.cores", "spent", "peak_mib"),
)
NEEDED: dict[Kind, tuple[str, ...]] = {
    "plan": ("victims", "defenses", "cells", "methods.attack", "methods.defense"),
    "victims": (*MADE, *(f"victim.{name}" for name in VICTIM)),
    "cells": (
        *(*MADE, "victim", "cell.defense.name", "cell.budget"),
        *(f"cell.victim.{name}" for name in VICTIM),
    ),
    "scans": (
        *(*MADE, "victim", "scan.scanner.name", "scan.budget"),
        *(f"scan.victim.{name}" for name in VICTIM),
    ),
}
"""The fields of each kind of record; a dot leads into a table."""
ENDS = ("done", "failed")
BY_END: dict[tuple[Kind, str], tuple[str, ...]] = {
    ("victims", "done"): ("score", "classes", "examples"),
    ("cells", "done"): ("before", "after", "der", "images.stamped", "layers", "examples"),
    ("cells", "failed"): ("error", "traceback"),
    ("scans", "done"): ("score", "suspect", "classes", "spent.scan"),
    ("scans", "failed"): ("error", "traceback"),
}
"""The fields that a record has, too, by how its work ended."""


def read(folder: Path) -> dict[Kind, list[Record]]:
    """The records of each kind; those of another format are left out, with a warning.

    Raises `ParameterError` for a record without a field that it needs.
    """
    store = Store(folder)
    found: dict[Kind, list[Record]] = {}
    others = 0
    for kind in NEEDED:
        every = [
            (path, record)
            for path in sorted((folder / kind).glob("*.json"))
            if (record := store.read(kind, path.stem)) is not None
        ]
        ours = [(path, record) for path, record in every if record.get("format") == FORMAT]
        others += len(every) - len(ours)
        for path, record in ours:
            _check(kind, path, record)
        found[kind] = [record for _, record in ours]
    if others:
        total = others + sum(map(len, found.values()))
        warnings.warn(
            f"{others} of {total} records in {folder} were left out: "
            f"they are not of format {FORMAT}",
            UnbackdoorWarning,
            stacklevel=2,
        )
    return found


def _check(kind: Kind, path: Path, record: Record) -> None:
    status = str(record.get("status"))
    needed = NEEDED[kind] + BY_END.get((kind, status), ())
    lacking = [name for name in needed if name not in record and not _has(record, name)]
    if "status" in needed and status not in ENDS:
        lacking.append("a status that is done or failed")
    if lacking:
        raise ParameterError(
            f"{path} is no result: it lacks {', '.join(lacking)}; take it away, and bench makes "
            "it again"
        )


def _has(record: Record, name: str) -> bool:
    found: Any = record
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return False
        found = found[part]
    return True
