"""Means over seeds with their 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ..bench.flags import LEAST_SEEDS
from .names import CLEAN
from .results import MEASURES, RATES, Row

STUDENT = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160),
    *(2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056),
    *(2.052, 2.048, 2.045, 2.042),
)
"""The 97.5 % points of Student's t for 1 to 30 degrees of freedom."""
NUMBERS = (*RATES, "der", "seconds", *MEASURES)
FEW = "few-seeds"
"""The one flag that is no cell's but that of a mean."""


@dataclass(frozen=True)
class Spread:
    """A mean over `n` seeds, and half the width of its 95 % interval; None for one seed."""

    mean: float
    half: float | None
    n: int


@dataclass(frozen=True)
class Group:
    """The cells that differ in their seed alone, or several such groups together."""

    rows: Sequence[Row]
    acc: Spread | None
    asr: Spread | None
    ra: Spread | None
    der: Spread | None
    seconds: Spread | None
    limit_asr: Spread | None = None
    limit_ra: Spread | None = None
    reactivation: Spread | None = None
    limit_reactivation: Spread | None = None
    existence: Spread | None = None
    coverage: Spread | None = None
    agreement: Spread | None = None
    agreement_stamped: Spread | None = None

    @property
    def first(self) -> Row:
        """Any of them, to tell what they share."""
        return self.rows[0]

    @property
    def n(self) -> int:
        """How many seeds the means are over."""
        return self.acc.n if self.acc else 0

    def count(self, status: str) -> int:
        """How many of the cells are done, failed or missing."""
        return sum(row.status == status for row in self.rows)

    @property
    def undone(self) -> str:
        """How many of its repairs were undone, where any was; all of them is just `undone`."""
        many = sum(row.undone for row in self.rows)
        return "" if not many else "undone" if many == self.n else f"{many} undone"

    @property
    def flags(self) -> list[str]:
        """The flags of its cells, each once, and that of few seeds."""
        found = dict.fromkeys(flag for row in self.rows for flag in row.flags)
        return [*found, *([FEW] if 0 < self.n < LEAST_SEEDS else [])]


def spread(parts: Iterable[Sequence[float]]) -> Spread | None:
    """The mean of the means of some groups, each of values over seeds; None for no values.

    Every group counts the same, however many of its seeds are done. The interval is Student's, of
    the spread over seeds within the groups, pooled; `n` is the fewest seeds of a group.

    >>> found = spread([[0.1, 0.2, 0.3]])
    >>> round(found.mean, 3), round(found.half, 3), found.n
    (0.2, 0.248, 3)
    """
    given = [values for values in parts if values]
    if not given:
        return None
    means = [fmean(values) for values in given]
    freedom = sum(len(values) - 1 for values in given)
    n = min(map(len, given))
    if not freedom:
        return Spread(fmean(means), None, n)
    squares = sum(
        (value - mean) ** 2 for values, mean in zip(given, means, strict=True) for value in values
    )
    shares = sum(1 / len(values) for values in given) / len(given) ** 2
    quantile = STUDENT[freedom - 1] if freedom <= len(STUDENT) else 1.96
    return Spread(fmean(means), quantile * math.sqrt(squares / freedom * shares), n)


def group(rows: Sequence[Row]) -> Group:
    """The rows as one, with the numbers of those that are done."""
    done: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row.status == "done":
            done.setdefault(row.group, []).append(row)
    return Group(rows, **{name: _over(done.values(), name) for name in NUMBERS})


def _over(parts: Iterable[Sequence[Row]], name: str) -> Spread | None:
    return spread(
        [value for row in rows if (value := getattr(row, name)) is not None] for rows in parts
    )


def groups(rows: Iterable[Row]) -> list[Group]:
    """The rows by all that they are but their seeds."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault((row.data, *row.group), []).append(row)
    return [group(own) for own in found.values()]


@dataclass(frozen=True)
class Standing:
    """One line of a leaderboard: a defense over all attacks, and what it costs clean models."""

    defense: str
    attacked: Group
    clean: Group

    @property
    def key(self) -> tuple[bool, float]:
        """Best first; then what was tried on clean models only, and last what has no numbers."""
        der = self.attacked.der or self.attacked.acc
        found = der or self.clean.acc
        return der is None, -(found.mean if found else 0)


def leaderboard(rows: Sequence[Row]) -> list[Standing]:
    """The defenses of one data set by their mean DER; victims as they are come last."""
    found: dict[str, tuple[list[Row], list[Row]]] = {}
    for row in rows:
        found.setdefault(row.defense, ([], []))[not row.attacked].append(row)
    standings = [Standing(name, group(own), group(clean)) for name, (own, clean) in found.items()]
    return sorted(standings, key=lambda line: (line.defense == CLEAN, *line.key))
