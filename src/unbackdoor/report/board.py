"""One data set of a bench's results: what its page tells, and what the page's script counts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from . import charts, summary, tables
from .names import CLEAN
from .rates import budget
from .results import HEADINGS, Row
from .spread import STUDENT, Group, Standing, groups, leaderboard

FILTERS = ("attack", "arch", "rate", "budget")


@dataclass(frozen=True)
class Board:
    """All that is said of one data set."""

    data: str
    rows: Sequence[Row]

    @cached_property
    def groups(self) -> list[Group]:
        """Its cells by all but their seeds."""
        return groups(self.rows)

    @cached_property
    def standings(self) -> list[Standing]:
        """Its leaderboard."""
        return leaderboard(self.rows)

    @cached_property
    def heat(self) -> charts.Heat:
        """Defenses against attacks; victims as they are come first."""
        names = [line.defense for line in self.standings]
        attacked = [group for group in self.groups if group.first.attacked]
        return charts.heat(attacked, sorted(names, key=lambda name: name != CLEAN))

    @cached_property
    def measures(self) -> dict[str, str]:
        """The measures that any cell has, and the headings of their columns."""
        used = tables.columns(self.cells)
        return {name: text for name, text in HEADINGS.items() if name in used}

    @cached_property
    def summary(self) -> list[list[str]]:
        """The summary of its methods, as a heading and lines of texts."""
        return summary.table(self.rows)

    @property
    def options(self) -> dict[str, list[tuple[str, str]]]:
        """What can be filtered by: values and their texts, where there is more than one."""
        found = {}
        for name in FILTERS:
            rows = [row for row in self.rows if row.attacked or name != "attack"]
            values = {getattr(row, name): None for row in rows}
            texts = [
                (plain(value), budget(value) if name == "budget" else plain(value))
                for value in values
                if value is not None
            ]
            if len(texts) > 1:
                found[name] = texts
        return found

    def count(self, status: str) -> int:
        """How many of its cells are done, failed or missing."""
        return sum(row.status == status for row in self.cells)

    @property
    def cells(self) -> list[Row]:
        """Its cells, without the victims as they are."""
        return [row for row in self.rows if row.defense != CLEAN]

    @property
    def for_script(self) -> str:
        """Its rows as the script of the page counts with them, as JSON that HTML cannot end."""
        keys = ("defense", "attack", "arch", "rate", "budget", "seed", "status")
        numbers = ("acc", "asr", "ra", "der", "seconds", *self.measures)
        told = [
            [
                *(
                    plain(getattr(row, key)) if key in FILTERS else getattr(row, key)
                    for key in keys
                ),
                *(_rounded(getattr(row, name)) for name in numbers),
                list(row.flags),
            ]
            for row in self.rows
        ]
        found = {"student": STUDENT, "measures": list(self.measures), "rows": told}
        text = json.dumps(found, separators=(",", ":"))
        return text.replace("<", "\\u003c")


def plain(value: object) -> str:
    """A number or a name as a filter compares it."""
    return f"{value:g}" if isinstance(value, float | int) else str(value)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
