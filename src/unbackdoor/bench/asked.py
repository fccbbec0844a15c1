"""What a grid may ask for beside ACC, ASR and RA, and which of it is there already. Without torch.

A victim's record holds what its clean model does with the same trigger, a cell's what the repaired
model does; `measures.py` takes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from .cell import Cell, Victim
from .store import Record, Store

Measure = Literal["limit", "visibility", "reactivation", "existence", "coverage", "agreement"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
OF_CLEAN = ("limit", "visibility", "reactivation", "existence")
"""Measured once for each victim: of its clean model, and of the trigger itself."""
OF_REPAIRED = ("reactivation", "existence", "coverage", "agreement")
"""Measured of each repaired model."""
FROM_RECORD = {"coverage"}
"""These need no repaired model: the record of a cell tells which channels were pruned."""


def of_victim(victim: Victim, record: Mapping[str, Any]) -> list[str]:
    """The measures that the `record` of a victim lacks; another clean model makes all of them new.

    None are of a model without a trigger, and of one that no clean model is known for.
    """
    if victim.attack is None or victim.clean is None:
        return []
    found = record.get("measures", {})
    there = found if found.get("clean_model") == victim.clean.id else {}
    return [name for name in OF_CLEAN if name in victim.measures and name not in there]


def of_cell(cell: Cell, record: Mapping[str, Any]) -> list[str]:
    """The measures that the `record` of a cell lacks; none where it failed, or has no trigger."""
    if cell.victim.attack is None or record["status"] == "failed":
        return []
    there = record.get("measures", {})
    return [name for name in OF_REPAIRED if name in cell.victim.measures and name not in there]


def finished(store: Store, cell: Cell) -> bool:
    """Whether the cell has a result, failed or with all that is asked for."""
    if cell.kind == "scans" or not cell.victim.measures:
        return store.has(cell.kind, cell.id)
    record = store.read("cells", cell.id)
    if record is None or of_cell(cell, record):
        return False
    victim = store.read("victims", cell.victim.id)
    return victim is None or not _unmeasured(cell.victim, victim)


def _unmeasured(victim: Victim, record: Record) -> bool:
    return record["status"] == "done" and bool(of_victim(victim, record))
