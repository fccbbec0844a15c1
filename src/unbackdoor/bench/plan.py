"""What a grid asks of a folder: which cells have results, what is left, and how long that may take.

The plan is written beside the results, so that a report can show what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from ..core import method
from ..core.method import declared
from ..core.version import __version__
from . import asked, controls
from .cell import Cell, Victim
from .store import FORMAT, Record, Store, identity


@dataclass(frozen=True)
class Estimate:
    """Seconds of work, and the number of cells and victims of which none like them has run yet."""

    seconds: float
    unknown: int


@dataclass(frozen=True)
class Plan:
    """The cells of a grid and the folder of their results."""

    cells: Sequence[Cell]
    store: Store

    @property
    def pending(self) -> list[Cell]:
        """The cells without a result, done or failed, or without a measure that is asked for."""
        return [cell for cell in self.cells if not asked.finished(self.store, cell)]

    @property
    def victims(self) -> list[Victim]:
        """The victims that the cells share, each once, and the clean models that these need."""
        own = [cell.victim for cell in self.cells]
        needed = [victim.needs for victim in own if victim.needs]
        # The cells' own come last: what the grid asks of them counts.
        return list({victim.id: victim for victim in (*needed, *own)}.values())

    def forget_failures(self) -> int:
        """Takes away the failed results of these cells and of their victims; how many cells."""
        failed = 0
        records = {v.id: self.store.read("victims", v.id) for v in self.victims}
        for victim in self.victims:
            record, needed = records[victim.id], victim.needs
            if _failed(record):
                self.store.remove("victims", victim.id)
            elif record and needed and _failed(records[needed.id]):
                # What it was to be measured against may be there the next time.
                record.pop("measures", None)
                self.store.write("victims", victim.id, record)
        for cell in self.cells:
            if _failed(self.store.read(cell.kind, cell.id)):
                self.store.remove(cell.kind, cell.id)
                failed += 1
        return failed

    def write(self) -> None:
        """Writes the plan, in short: victims and methods once, cells and scans as pairs of them."""
        victims = {victim.id: victim for victim in self.victims}
        scans = [cell for cell in self.cells if cell.kind == "scans"]
        cells = [cell for cell in self.cells if cell.kind == "cells"]
        name = identity({"cells": [cell.id for cell in self.cells]})
        self.store.write(
            "plan",
            name,
            {
                "format": FORMAT,
                "id": name,
                "unbackdoor": __version__,
                "victims": [{"id": found.id, **found.declaration()} for found in victims.values()],
                "defenses": list(_declared(cells).values()),
                "cells": _pairs(cells, list(victims)),
                **_scans(scans, list(victims)),
                "methods": self._methods(),
            },
        )

    def _methods(self) -> Record:
        attacks = {v.attack["name"] for v in self.victims if v.attack and not v.given}
        names: dict[str, set[str]] = {"cells": set(), "scans": set()}
        for cell in self.cells:
            names[cell.kind].add(cell.defense["name"])
        found = {
            "attack": {name: declared(method.find("attack", name)) for name in sorted(attacks)},
            "defense": {name: declared(controls.find(name)) for name in sorted(names["cells"])},
        }
        looks = {name: declared(method.find("scanner", name)) for name in sorted(names["scans"])}
        return found | ({"scanner": looks} if looks else {})

    def guesses(self) -> dict[str, float | None]:
        """Seconds that each pending cell, and each victim to be planted, may take, by its id.

        None where nothing like it has run in this folder.
        """
        known, pending = _Times(self.store), self.pending
        victims = {cell.victim.id: cell.victim for cell in pending}
        planted = (v for v in victims.values() if not self.store.has("victims", v.id))
        cells = {cell.id: known.cell(cell) for cell in pending}
        return cells | {victim.id: known.victim(victim) for victim in planted}

    def estimate(self) -> Estimate:
        """How long the pending cells may take one after another, from what has run before."""
        guesses = self.guesses().values()
        found = [guess for guess in guesses if guess is not None]
        return Estimate(sum(found), len(guesses) - len(found))


def _scans(scans: Sequence[Cell], victims: Sequence[str]) -> Record:
    """What a plan says of scans; nothing where there are none, as before there were any."""
    if not scans:
        return {}
    return {"scanners": list(_declared(scans).values()), "scans": _pairs(scans, victims)}


def _declared(cells: Sequence[Cell]) -> dict[str, Record]:
    return {identity(cell.defense): cell.defense for cell in cells}


def _pairs(cells: Sequence[Cell], victims: Sequence[str]) -> list[list[Any]]:
    """Each cell: its id, the places of its victim and its method, and its clean images."""
    hosts = {name: place for place, name in enumerate(victims)}
    methods = {name: place for place, name in enumerate(_declared(cells))}
    return [
        [
            cell.id,
            hosts[cell.victim.id],
            methods[identity(cell.defense)],
            cell.budget,
            *([cell.clean] if cell.clean else []),
        ]
        for cell in cells
    ]


class _Times:
    """Seconds that cells and victims took, by what decides them: nearest likeness first."""

    def __init__(self, store: Store) -> None:
        self.spent: dict[tuple[Any, ...], list[float]] = {}
        own = [(record, record["cell"], "defense") for record in _done(store.all("cells"))]
        own += [(record, record["scan"], "scanner") for record in _done(store.all("scans"))]
        for record, told, role in own:
            for key in _likeness(told["victim"], told[role]["name"]):
                self.spent.setdefault(key, []).append(record["spent"]["all"])
        for record in _done(store.all("victims")):
            told = record["victim"]
            for key in _likeness(told, None, (told["attack"] or {}).get("name")):
                self.spent.setdefault(key, []).append(record["spent"]["all"])

    def cell(self, cell: Cell) -> float | None:
        return self._nearest(_likeness(cell.victim.declaration(), cell.defense["name"]))

    def victim(self, victim: Victim) -> float | None:
        attack = (victim.attack or {}).get("name")
        return self._nearest(_likeness(victim.declaration(), None, attack))

    def _nearest(self, keys: list[tuple[Any, ...]]) -> float | None:
        return next((median(self.spent[key]) for key in keys if key in self.spent), None)


def _likeness(victim: Record, *method_names: str | None) -> list[tuple[Any, ...]]:
    place = (victim["data"]["name"], str(victim["architecture"]))
    return [(*method_names, *place), method_names] if method_names[0] else [(*method_names, *place)]


def _done(records: Iterable[Record]) -> Iterator[Record]:
    """What neither failed nor was resumed: only that tells how long such work takes."""
    done = (record for record in records if record["status"] == "done")
    return (record for record in done if not record["spent"].get("resumed"))


def _failed(record: Record | None) -> bool:
    return record is not None and record["status"] == "failed"
