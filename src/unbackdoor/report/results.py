"""The results of a bench as rows: what was tried, what came out, and what is missing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..bench.flags import SAME_WEIGHTS, UNDONE
from ..bench.store import Kind, Record
from ..core.errors import ParameterError
from ..core.foreign import told_as
from . import records
from .detection import Detection, detections
from .names import CLEAN, CONTROL, Names

Status = Literal["done", "failed", "missing"]
RATES = ("acc", "asr", "ra")
HEADINGS = {
    "limit_asr": "Limit ASR",
    "limit_ra": "Limit RA",
    "reactivation": "ASR re-activated",
    "limit_reactivation": "Limit re-activated",
    "existence": "Existence",
    "coverage": "Coverage",
    "agreement": "Agreement",
    "agreement_stamped": "Agreement, triggered",
}
"""What a grid may ask for beside them, and what tables call it."""
MEASURES = tuple(HEADINGS)


@dataclass(frozen=True)
class Row:
    """One cell: what it is, and its numbers, as shares of 1; None where there is none.

    `data`, `arch`, `attack` and `defense` are names that tell kinds apart: `fmp p=32`.
    """

    id: str
    data: str
    arch: str
    attack: str
    rate: float | None
    defense: str
    budget: float
    seed: int
    status: Status
    acc: float | None = None
    asr: float | None = None
    ra: float | None = None
    der: float | None = None
    seconds: float | None = None
    flags: tuple[str, ...] = ()
    limit_asr: float | None = None
    """Of a clean model on the same triggered images, as `limit_ra`."""
    limit_ra: float | None = None
    reactivation: float | None = None
    """ASR after re-activation; `limit_reactivation` is what a clean model gets by the same."""
    limit_reactivation: float | None = None
    existence: float | None = None
    """0 where no more like the backdoored model than a clean one is, 1 where quite like it."""
    coverage: float | None = None
    agreement: float | None = None
    """Answers as the clean model's, of clean images and, as `agreement_stamped`, of triggered."""
    agreement_stamped: float | None = None
    control: bool = False
    """Whether it is no defense, but something to judge defenses by."""

    @property
    def group(self) -> tuple[Any, ...]:
        """All that it is but its data set and its seed."""
        return (self.arch, self.attack, self.rate, self.budget, self.defense)

    @property
    def undone(self) -> bool:
        """Whether its numbers are the victim's, because the repair destroyed the model."""
        return UNDONE in self.flags

    @property
    def attacked(self) -> bool:
        """Whether its model was ever attacked."""
        return self.attack.split(" ")[0] != CLEAN


@dataclass(frozen=True)
class Results:
    """The rows of a folder, and the records that they were made of."""

    rows: Sequence[Row]
    cells: Mapping[str, Record]
    victims: Mapping[str, Record]
    methods: Mapping[str, Mapping[str, Record]]
    detections: Sequence[Detection] = ()
    """What scanners said of the same models."""
    scans: Mapping[str, Record] = field(default_factory=dict)

    @property
    def data(self) -> list[str]:
        """The data sets, in the order in which they come."""
        return list(dict.fromkeys(row.data for row in self.rows))


def read(folder: Path) -> Results:
    """All that `folder` holds; raises `ParameterError` where it holds no result of a bench."""
    with told_as(ParameterError, f"{folder} holds what no bench writes"):
        return _results(folder, records.read(folder))


def _results(folder: Path, found: Mapping[Kind, list[Record]]) -> Results:
    cells = {record["id"]: record for record in found["cells"]}
    scans = {record["id"]: record for record in found["scans"]}
    victims = {record["id"]: record for record in found["victims"]}
    planned: dict[str, Record] = {}
    looks: dict[str, Record] = {}
    methods: dict[str, dict[str, Record]] = {"attack": {}, "defense": {}, "scanner": {}}
    for plan in found["plan"]:
        planned |= _planned(plan, "cells", "defense")
        looks |= _planned(plan, "scans", "scanner")
        for role, told in plan["methods"].items():
            methods[role] |= told
    declared = {**planned, **{name: record["cell"] for name, record in cells.items()}}
    looks |= {name: record["scan"] for name, record in scans.items()}
    if not declared and not looks:
        raise ParameterError(f"{folder} holds no results of a bench")
    models = [told["victim"] for told in looks.values()]
    models += [record["victim"] for record in victims.values()]
    names = Names(models, declared.values())
    rows = [_row(name, told, cells.get(name), names, victims) for name, told in declared.items()]
    rows += _undefended([*declared.values(), *looks.values()], victims, names)
    detected = detections(looks, scans, victims, names)
    return Results(sorted(rows, key=_order), cells, victims, methods, detected, scans)


def _planned(plan: Record, kind: str, role: str) -> dict[str, Record]:
    """What a plan says of its cells, or of its scans, by their ids."""
    found = {}
    for name, victim, declared, budget, *clean in plan.get(kind, ()):
        told = {"victim": plan["victims"][victim], role: plan[f"{role}s"][declared]}
        found[name] = {**told, "budget": budget, "clean": next(iter(clean), None)}
    return found


def _order(row: Row) -> tuple[Any, ...]:
    return (
        row.data,
        row.arch,
        not row.attacked,
        row.attack,
        row.rate or 0,
        row.budget,
        row.defense,
        row.seed,
    )


def _row(
    name: str, told: Record, record: Record | None, names: Names, victims: Mapping[str, Record]
) -> Row:
    victim = names.of_victim(told["victim"])
    status: Status = record["status"] if record else "missing"
    found: dict[str, Any] = {}
    if record and status == "done":
        found = {rate: _value(record["after"], rate) for rate in RATES}
        spent = record["spent"]
        whole = None if spent.get("resumed") else spent.get("repair")  # not of its last part alone
        found |= {"der": record["der"], "seconds": whole}
        found["flags"] = tuple(record["flags"])
        clean = victims.get(record["victim"], {}).get("measures", {})
        found |= _limits(clean) | _measures(_own(record), clean)
    return Row(
        id=name,
        defense=names.of_defense(victim["data"], told),
        budget=told["budget"],
        seed=told["victim"]["seed"],
        status=status,
        control=bool(told["defense"].get(CONTROL)),
        **victim,
        **found,
    )


def _limits(clean: Mapping[str, Any]) -> dict[str, float | None]:
    """What the clean model of a victim scores on its triggered images."""
    limit = clean.get("limit")
    found = {f"limit_{name}": _value(limit, name) for name in ("asr", "ra")}
    return {**found, "limit_reactivation": _value(clean, "reactivation")}


def _own(record: Record) -> Record:
    """What was measured of a repair; where the model is the victim's, only what was pruned."""
    found: Record = record.get("measures", {})
    if not SAME_WEIGHTS & set(record["flags"]):
        return found
    return {name: value for name, value in found.items() if name == "coverage"}


def _measures(own: Mapping[str, Any], clean: Mapping[str, Any]) -> dict[str, float | None]:
    """What was measured of a repaired model; its existence as Zhu et al. (2024) scale it.

    Less likeness than a clean model's, as of silenced channels, is none: it would dominate means.
    """
    like: Any = own.get("existence")
    base: Any = clean.get("existence")
    there = like is not None and base is not None and base < 1
    return {
        "reactivation": _value(own, "reactivation"),
        "existence": min(1, max(0, (like - base) / (1 - base))) if there else None,
        "coverage": _value(own, "coverage"),
        "agreement": _value(own.get("agreement"), "clean"),
        "agreement_stamped": _value(own.get("agreement"), "stamped"),
    }


def _undefended(
    declared: Iterable[Record], victims: Mapping[str, Record], names: Names
) -> Iterable[Row]:
    """A row for every victim as it is, at each budget of its cells."""
    budgets = defaultdict(set)
    for told in declared:
        budgets[names.of_victim(told["victim"])["data"]].add(told["budget"])
    for record in victims.values():
        victim = names.of_victim(record["victim"])
        score = record.get("score")
        clean = record.get("measures", {})
        found: dict[str, Any] = {rate: _value(score, rate) for rate in RATES} | _limits(clean)
        for budget in budgets[victim["data"]]:
            yield Row(
                id=record["id"],
                defense=CLEAN,
                budget=budget,
                seed=record["victim"]["seed"],
                status=record["status"],
                flags=tuple(record["flags"]),
                **victim,
                **found,
            )


def _value(score: Mapping[str, Any] | None, name: str) -> float | None:
    rate = (score or {}).get(name)
    return rate["hits"] / rate["total"] if rate and rate["total"] else None
