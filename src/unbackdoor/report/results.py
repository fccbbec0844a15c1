"""The results of a bench as rows: what was tried, what came out, and what is missing."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..bench.store import Record, Store
from ..errors import ParameterError
from .rates import literal

Status = Literal["done", "failed", "missing"]
CLEAN = "none"
"""The attack of a model that was never attacked, and the defense of a victim as it is."""
RATES = ("acc", "asr", "ra")


@dataclass(frozen=True)
class Row:
    """One cell: what it is, and its numbers, as shares of 1; None where there is none."""

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

    @property
    def group(self) -> tuple[Any, ...]:
        """All that it is but its seed."""
        return (self.arch, self.attack, self.rate, self.budget, self.defense)


@dataclass(frozen=True)
class Results:
    """The rows of a folder, and the records that they were made of."""

    rows: Sequence[Row]
    cells: Mapping[str, Record]
    victims: Mapping[str, Record]
    methods: Mapping[str, Mapping[str, Record]]
    labels: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """(attack, defense) as a cell's rows call them, by its id."""

    @property
    def data(self) -> list[str]:
        """The data sets, in the order in which they come."""
        return list(dict.fromkeys(row.data for row in self.rows))


def read(folder: Path) -> Results:
    """All that `folder` holds; raises `ParameterError` where it holds no result of a bench."""
    store = Store(folder)
    cells = {record["id"]: record for record in store.all("cells")}
    victims = {record["id"]: record for record in store.all("victims")}
    planned: dict[str, Record] = {}
    methods: dict[str, dict[str, Record]] = {"attack": {}, "defense": {}}
    for plan in store.all("plan"):
        for name, victim, defense, budget in plan["cells"]:
            told = {"victim": plan["victims"][victim], "defense": plan["defenses"][defense]}
            planned[name] = {**told, "budget": budget}
        for role, found in plan["methods"].items():
            methods[role] |= found
    if not cells and not planned:
        raise ParameterError(f"{folder} holds no results of a bench")
    declared = {**planned, **{name: record["cell"] for name, record in cells.items()}}
    names = _Names(declared.values())
    rows = [_row(name, told, cells.get(name), names) for name, told in declared.items()]
    rows += _undefended(declared.values(), victims, names)
    return Results(sorted(rows, key=_order), cells, victims, methods)


def _order(row: Row) -> tuple[Any, ...]:
    return (
        row.data,
        row.arch,
        row.attack == CLEAN,
        row.attack,
        row.rate or 0,
        row.budget,
        row.defense,
        row.seed,
    )


def _row(name: str, told: Record, record: Record | None, names: _Names) -> Row:
    victim = told["victim"]
    data = victim["data"]["name"]
    status: Status = record["status"] if record else "missing"
    found: dict[str, Any] = {}
    if record and status == "done":
        found = {rate: _value(record["after"], rate) for rate in RATES}
        found |= {"der": record["der"], "seconds": record["spent"].get("repair")}
        found["flags"] = tuple(record["flags"])
    return Row(
        id=name,
        data=data,
        arch=names.of(data, "arch", victim["architecture"]),
        attack=names.of(data, "attack", victim["attack"]),
        rate=(victim["attack"] or {}).get("rate"),
        defense=names.of(data, "defense", told["defense"]),
        budget=told["budget"],
        seed=victim["seed"],
        status=status,
        **found,
    )


def _undefended(
    declared: Iterable[Record], victims: Mapping[str, Record], names: _Names
) -> Iterable[Row]:
    """A row for every victim as it is, at each budget of its cells."""
    budgets = defaultdict(set)
    for told in declared:
        budgets[told["victim"]["data"]["name"]].add(told["budget"])
    for record in victims.values():
        victim = record["victim"]
        data = victim["data"]["name"]
        score = record.get("score")
        for budget in budgets[data]:
            yield Row(
                id=record["id"],
                data=data,
                arch=names.of(data, "arch", victim["architecture"]),
                attack=names.of(data, "attack", victim["attack"]),
                rate=(victim["attack"] or {}).get("rate"),
                defense=CLEAN,
                budget=budget,
                seed=victim["seed"],
                status=record["status"],
                flags=tuple(record["flags"]),
                **{rate: _value(score, rate) for rate in RATES},
            )


def _value(score: Record | None, name: str) -> float | None:
    rate = (score or {}).get(name)
    return rate["hits"] / rate["total"] if rate else None


class _Names:
    """Names of methods and networks, with what tells kinds of one apart."""

    def __init__(self, declared: Iterable[Record]) -> None:
        self.kinds: dict[tuple[str, str, str], dict[str, Record]] = defaultdict(dict)
        self.known: dict[tuple[str, str, str], str] = {}
        for told in declared:
            victim = told["victim"]
            data = victim["data"]["name"]
            for role, table in (
                ("arch", victim["architecture"]),
                ("attack", victim["attack"]),
                ("defense", told["defense"]),
            ):
                if table:
                    flat = _flat(table)
                    self.kinds[data, role, table["name"]][_key(flat)] = flat

    def of(self, data: str, role: str, table: Record | None) -> str:
        """What tables call it."""
        if not table:
            return CLEAN
        flat = _flat(table)
        key = (data, role, _key(flat))
        if key not in self.known:
            kinds = list(self.kinds[data, role, table["name"]].values())
            differ = [name for name in flat if any(kind.get(name) != flat[name] for kind in kinds)]
            told = [f"{name}={literal(flat[name])}" for name in differ]
            self.known[key] = " ".join([table["name"], *told])
        return self.known[key]


def _flat(table: Record) -> Record:
    """Options as fields; the rate of an attack is a thing of its own."""
    flat = {**table, **table.get("options", {})}
    flat.pop("options", None)
    flat.pop("rate", None)
    return flat


def _key(flat: Record) -> str:
    return json.dumps(flat, sort_keys=True)
