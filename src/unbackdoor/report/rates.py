"""Counts as they stand in a record, with their intervals, and how numbers are written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

SPACE = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Share:
    """`hits` out of `total` > 0: a rate read back from a record, without torch."""

    hits: int
    total: int

    @property
    def value(self) -> float:
        """The share in [0, 1]."""
        return self.hits / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % score interval of the share (Wilson 1927)."""
        z = NormalDist().inv_cdf(0.975)
        n, p = self.total, self.value
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)


def share(scores: Mapping[str, Any] | None, name: str) -> Share | None:
    """The rate called `name` of a record's scores; None where it was not measurable."""
    rate = (scores or {}).get(name)
    return Share(rate["hits"], rate["total"]) if rate and rate["total"] else None


def percent(value: float) -> str:
    """A share in [0, 1] as `98.7 %`; never rounded to none or to all.

    >>> [percent(value).replace(SPACE, " ") for value in (0.9873, 0.0001, 0.9999, 1.0)]
    ['98.7 %', '< 0.1 %', '> 99.9 %', '100.0 %']
    """
    if 0 < value < 0.0005:
        return f"<{SPACE}0.1{SPACE}%"
    if 0.9995 <= value < 1:
        return f">{SPACE}99.9{SPACE}%"
    return f"{100 * value:.1f}{SPACE}%"


def hundred(value: float | None) -> str:
    """A share in [0, 1] in percent without its sign, for tables; a dash where there is none."""
    return "\N{EN DASH}" if value is None else f"{100 * value:.1f}"


def half(value: float) -> str:
    """Half of an interval in percent. From 50 on, two seeds say no more than one."""
    return f"{100 * value:.1f}" if value < 0.5 else "50+"


def interval(value: Share) -> str:
    """The 95 % interval of a rate as `97.9 to 99.2 %`."""
    low, high = value.interval
    return f"{100 * low:.1f} to {100 * high:.1f}{SPACE}%"


def points(change: float) -> str:
    """A difference of two shares in percentage points, with its sign: `+1.2`, `−97.4`, `0.0`."""
    text = f"{abs(100 * change):.1f}"
    sign = "" if text == "0.0" else "+" if change > 0 else MINUS
    return sign + text


def count(number: int) -> str:
    """A whole number with its thousands set apart: `11,171,146`."""
    return f"{number:,}"


def budget(value: float) -> str:
    """The defender's clean images: a share of the training images as `30 %`, or their count.

    >>> [budget(value).replace(SPACE, " ") for value in (0.3, 0.07, 0.0025, 2500)]
    ['30 %', '7 %', '0.25 %', '2,500']
    """
    return f"{100 * value:g}{SPACE}%" if value < 1 else count(round(value))


def short(number: float) -> str:
    """A measured number in three significant digits."""
    return f"{number:.3g}".replace("-", MINUS)


def duration(seconds: float) -> str:
    """A time span as one reads it: `0.42 s`, `12.3 s`, `4 min 12 s`, `1 h 03 min`."""
    if seconds < 59.95:
        return f"{seconds:.2f}{SPACE}s" if seconds < 1 else f"{seconds:.1f}{SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{SPACE}min{SPACE}{rest:02d}{SPACE}s"
    return f"{minutes // 60}{SPACE}h{SPACE}{minutes % 60:02d}{SPACE}min"


def literal(value: object) -> str:
    """A parameter's value as `-p key=value` takes it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
