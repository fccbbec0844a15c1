"""What tables call data sets, networks and methods: a name, and what tells kinds of one apart.

Two cells may be averaged over seeds only if all else about them is the same. So everything that
a declaration holds, but the seed, the poisoning rate and the budget, goes into these names.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..bench.store import Record
from ..core.text import printable
from .rates import literal

CLEAN = "none"
"""The attack of a model that was never attacked, and the defense of a victim as it is."""
CONTROL = "control"
"""The field of a defense that is none, but something to judge others by."""
HIDDEN = {"name", "rate", CONTROL}
"""The name stands first, and the rate of an attack in a column of its own."""


class Names:
    """The names of all that `cells` declare and that `victims` are; differences within a data set.

    A field is told where kinds differ in it; a field that is null, as one that is not there.
    """

    def __init__(self, victims: Sequence[Record], cells: Iterable[Record]) -> None:
        self._kinds: dict[tuple[str, str, str], dict[str, Record]] = defaultdict(dict)
        self._known: dict[tuple[str, str, str], str] = {}
        self._taken: set[tuple[str, str, str]] = set()
        cells = list(cells)
        victims = [*(told["victim"] for told in cells), *victims]
        for victim in victims:
            self._add("", "data", victim["data"])
        for victim in victims:
            data = self._of("", "data", victim["data"])
            self._add(data, "arch", _network(victim))
            self._add(data, "attack", _attack(victim))
        for told in cells:
            data = self._of("", "data", told["victim"]["data"])
            self._add(data, "defense", _defense(told))

    def of_victim(self, victim: Record) -> dict[str, Any]:
        """What the rows of a victim say of it: `data`, `arch`, `attack` and `rate`."""
        data = self._of("", "data", victim["data"])
        return {
            "data": data,
            "arch": self._of(data, "arch", _network(victim)),
            "attack": self._of(data, "attack", _attack(victim)),
            "rate": _rate(victim["attack"] or {}),
        }

    def of_defense(self, data: str, told: Record) -> str:
        """What the rows of a data set call the defense of a cell, and its clean images."""
        return self._of(data, "defense", _defense(told))

    def _add(self, data: str, role: str, table: Record) -> None:
        self._kinds[data, role, table["name"]][_key(table)] = table

    def _of(self, data: str, role: str, table: Record) -> str:
        key = (data, role, _key(table))
        if key not in self._known:
            kinds = self._kinds[data, role, table["name"]].values()
            told = [
                f"{name}={literal(value)}"
                for name, value in table.items()
                if name not in HIDDEN and value is not None
                # The count of an attack stands where others have their rate: always.
                if name == "count" or any(kind.get(name) != value for kind in kinds)
            ]
            marked = ["(control)"] if table.get(CONTROL) else []
            self._known[key] = self._free(data, role, " ".join([table["name"], *marked, *told]))
        return self._known[key]

    def _free(self, data: str, role: str, name: str) -> str:
        """`name`, or where another kind is told the same way, which of them this is."""
        found, many = printable(name), 1
        while (data, role, found) in self._taken:
            many += 1
            found = f"{printable(name)} kind={many}"
        self._taken.add((data, role, found))
        return found


def _defense(told: Record) -> Record:
    """The defense of a cell, and how its clean images differ from the data set's.

    Of the defense that a control prunes like, the name and what tells it from others are told.
    """
    clean = (told.get("clean") or {}).items()
    table = dict(told["defense"])
    if table.get(CONTROL) and (like := table.pop("like", None)):
        table["like"] = like["name"]
        table |= {f"like.{key}": value for key, value in like.items() if key != "name"}
    return {
        **table,
        **{f"clean.{key}": value for key, value in clean if key != "name" and value},
    }


def _network(victim: Record) -> Record:
    """The options of a network as fields, and its precision, which decides numbers as they do."""
    table = victim["architecture"]
    return {"name": table["name"], **table["options"], "precision": victim.get("precision")}


def _attack(victim: Record) -> Record:
    """An attack without its rate, or how a model was trained that was never attacked."""
    table = victim["attack"]
    if not table and victim.get("given"):
        return {"name": CLEAN, "model": victim["given"]["name"]}
    start = victim.get("start") or {}
    if not table:
        told = {"name": CLEAN, **(victim.get("training") or {})}
    else:
        told = {name: value for name, value in table.items() if name != "rate" or _counts(table)}
    if "sha256" in start:
        told["start"] = start["sha256"][:8]
    if "training" in start:
        told |= {"start": "clean"}
        told |= {f"start.{name}": value for name, value in start["training"].items()}
    return told


def _rate(attack: Mapping[str, Any]) -> float | None:
    return None if _counts(attack) else attack.get("rate")


def _counts(attack: Mapping[str, Any]) -> bool:
    """Whether an attack poisons so many images, whatever its rate says."""
    return attack.get("count") is not None


def _key(table: Record) -> str:
    return json.dumps(table, sort_keys=True)
