"""The geometry of the bench's pictures: places in percent, so that text never scales."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .names import CLEAN
from .rates import SPACE, budget, duration, percent
from .spread import Group, Spread, Standing

WORDS: dict[str, Callable[[Any], str]] = {
    "arch": str,
    "rate": lambda value: f"rate {value:g}",
    "budget": lambda value: f"clean{SPACE}{budget(value)}",
}
LINE = 15
"""How high a label is, in pixels."""
WIDE, NARROW = 0.008, 0.026
"""How wide a letter is, as a share of a plot on a wide screen and on a phone."""


@dataclass(frozen=True)
class Tick:
    """A line across, at a share of the axis, and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Label:
    """Where a name stands: left or right of its dot, and so many pixels below it."""

    left: bool
    shift: float


@dataclass(frozen=True)
class Dot:
    """A point, its error bars from end to end, and its label on a wide screen and on a phone."""

    name: str
    x: float
    y: float
    across: tuple[float, float]
    along: tuple[float, float]
    wide: Label
    narrow: Label
    title: str


@dataclass(frozen=True)
class Scatter:
    """Dots between two axes; places are percentages of the box, y from its top."""

    dots: Sequence[Dot]
    x: Sequence[Tick]
    y: Sequence[Tick]


@dataclass(frozen=True)
class Line:
    """One defense's way along an axis of steps: points as a path in a box of 100 by 100."""

    name: str
    path: str
    band: str
    last: str
    told: str


@dataclass(frozen=True)
class Curves:
    """A panel a defense; the steps are the values of the axis, in even distance."""

    lines: Sequence[Line]
    steps: Sequence[Tick]


def accuracy_against_success(board: Sequence[Standing], height: float) -> Scatter | None:
    """ACC upward, ASR to the right, a dot a defense over all attacks: best is top left."""
    shown = [(line.defense, line.attacked) for line in board if _has(line.attacked, "acc", "asr")]
    if not shown:
        return None
    lowest = min(group.acc.mean - (group.acc.half or 0) for _, group in shown if group.acc)
    low = max(0.0, math.floor(20 * min(lowest - 0.01, 0.95)) / 20)
    return _scatter(
        [(name, group.asr, group.acc, _told(group, "asr", "acc")) for name, group in shown],
        lambda value: value,
        lambda value: (value - low) / (1 - low),
        [Tick(part / 4, f"{25 * part}") for part in range(5)],
        [Tick((value - low) / (1 - low), f"{100 * value:.0f}") for value in _steps(low)],
        height,
    )


def success_against_time(board: Sequence[Standing], height: float) -> Scatter | None:
    """ASR upward, seconds of a repair to the right on a logarithmic axis."""
    shown = [
        (line.defense, line.attacked) for line in board if _has(line.attacked, "asr", "seconds")
    ]
    if not shown:
        return None
    times = [group.seconds.mean for _, group in shown if group.seconds]
    first, last = math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)))
    last += first == last

    def place(value: float) -> float:
        return (math.log10(max(value, 1e-9)) - first) / (last - first)

    return _scatter(
        [(name, group.seconds, group.asr, _told(group, "seconds", "asr")) for name, group in shown],
        place,
        lambda value: value,
        [Tick(place(10.0**power), _seconds(power)) for power in range(first, last + 1)],
        [Tick(part / 4, f"{25 * part}") for part in range(5)],
        height,
    )


def along(groups: Sequence[Group], name: str, defenses: Sequence[str]) -> Curves | None:
    """ASR along the poisoning `rate` or the clean `budget`, a line a defense over all attacks.

    None where there is one value only.
    """
    from .spread import group as together

    rows = [row for group in groups for row in group.rows if row.attacked]
    steps = sorted({getattr(row, name) for row in rows if getattr(row, name) is not None})
    if len(steps) < 2:
        return None
    texts = [budget(step) if name == "budget" else f"{step:g}" for step in steps]
    lines = []
    for defense in defenses:
        own = [
            together([r for r in rows if r.defense == defense and getattr(r, name) == step]).asr
            for step in steps
        ]
        lines.append(_line(defense, own, texts))
    ticks = [Tick(place / (len(steps) - 1), text) for place, text in enumerate(texts)]
    return Curves([line for line in lines if line.path], ticks)


def _line(name: str, spreads: Sequence[Spread | None], steps: Sequence[str]) -> Line:
    known = [
        (100 * place / (len(spreads) - 1), found)
        for place, found in enumerate(spreads)
        if found is not None
    ]

    def down(value: float) -> float:
        return round(100 * (1 - min(1.0, max(0.0, value))), 2)

    middle = " ".join(f"{x:g},{down(found.mean)}" for x, found in known)
    upper = [f"{x:g},{down(found.mean + (found.half or 0))}" for x, found in known]
    lower = [f"{x:g},{down(found.mean - (found.half or 0))}" for x, found in reversed(known)]
    last = f"{100 * known[-1][1].mean:.1f}" if known else ""
    told = "; ".join(
        f"{percent(found.mean)} at {step}"
        for found, step in zip(spreads, steps, strict=True)
        if found is not None
    )
    return Line(name, middle, " ".join(upper + lower), last, f"ASR {told}")


def _told(group: Group, *names: str) -> str:
    """The numbers of a dot, for those who cannot see where it is."""
    values = [(name, getattr(group, name)) for name in names]
    told = [
        f"{duration(found.mean)}" if name == "seconds" else f"{name.upper()} {percent(found.mean)}"
        for name, found in values
    ]
    return ", ".join([*told, f"n {group.n}"])


def _has(group: Group, *names: str) -> bool:
    return all(getattr(group, name) is not None for name in names)


def _steps(low: float) -> list[float]:
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2) if 1 - low <= 6 * step + 1e-9)
    count = math.floor((1 - low) / step + 1e-9)
    return [1 - step * part for part in range(count + 1)]


def _seconds(power: int) -> str:
    return f"{10**power} s" if power >= 0 else f"{10.0**power:g} s"


def _scatter(
    found: Sequence[tuple[str, Any, Any, str]],
    x_of: Callable[[float], float],
    y_of: Callable[[float], float],
    x: Sequence[Tick],
    y: Sequence[Tick],
    height: float,
) -> Scatter:
    def ends(value: Spread, place: Callable[[float], float]) -> tuple[float, float]:
        half = value.half or 0.0
        return _inside(place(value.mean - half)), _inside(place(value.mean + half))

    placed = sorted(
        ((*told, x_of(told[1].mean), y_of(told[2].mean)) for told in found),
        key=lambda part: -part[5],
    )
    spots = [(name, right, (1 - high) * height) for name, *_, right, high in placed]
    wide, narrow = (_labels(spots, letter, height) for letter in (WIDE, NARROW))
    dots = [
        Dot(
            name=name,
            x=round(100 * _inside(right), 2),
            y=round(100 * (1 - _inside(high)), 2),
            across=_percent(ends(across, x_of)),
            along=_percent(tuple(1 - end for end in reversed(ends(up, y_of)))),
            wide=wide[place],
            narrow=narrow[place],
            title=f"{name if name != CLEAN else 'no defense'}: {told}",
        )
        for place, (name, across, up, told, right, high) in enumerate(placed)
    ]
    return Scatter(dots, x, y)


def _labels(spots: Sequence[tuple[str, float, float]], letter: float, height: float) -> list[Label]:
    """A place for each name near its dot, where it hides no other name and no dot."""
    taken = [(right - letter, right + letter, top) for _, right, top in spots]
    labels = []
    for place, (name, right, top) in enumerate(spots):
        near, far = 1.5 * letter, (len(name) + 2) * letter
        sides = {False: (right + near, right + far), True: (right - far, right - near)}
        label = _free(top, sides, taken[:place] + taken[place + 1 :], height)
        taken.append((*sides[label.left], top + label.shift))
        labels.append(label)
    return labels


def _free(
    top: float, sides: dict[bool, tuple[float, float]], taken: Sequence[Any], height: float
) -> Label:
    """The nearest free place; right of the dot rather than left, below rather than above."""
    for step in range(int(height)):
        for left, (start, end) in sides.items():
            for shift in (step, -step):
                inside = start >= 0 and end <= 1 and 0 <= top + shift <= height
                if inside and not any(
                    start < b and a < end and abs(top + shift - y) < LINE for a, b, y in taken
                ):
                    return Label(left, shift)
    return Label(sides[False][1] > 1, 0)


def _inside(value: float) -> float:
    return min(1.0, max(0.0, value))


def _percent(ends: Sequence[float]) -> tuple[float, float]:
    low, high = ends
    return round(100 * low, 2), round(100 * high, 2)


@dataclass(frozen=True)
class Heat:
    """Defenses down, attacks across; a group in each field, or None where nothing was asked for."""

    columns: Sequence[Column]
    rows: Sequence[tuple[str, Sequence[Group | None]]]


@dataclass(frozen=True)
class Column:
    """An attack, and the rest of what a field's cells share, where it is not the same for all."""

    attack: str
    rest: str
    first: Any


def heat(groups: Sequence[Group], defenses: Sequence[str]) -> Heat:
    """The groups of one data set as a map; `defenses` in the order of the leaderboard."""
    parts = ("arch", "rate", "budget")
    several = {name: len({getattr(group.first, name) for group in groups}) > 1 for name in parts}
    columns: dict[tuple[Any, ...], Column] = {}
    fields: dict[tuple[Any, ...], Group] = {}
    for group in groups:
        row = group.first
        key = row.group[:-1]
        own = [(name, getattr(row, name)) for name in parts if several[name]]
        rest = [WORDS[name](value) for name, value in own if value is not None]
        columns.setdefault(key, Column(row.attack, ", ".join(rest), row))
        fields[key, row.defense] = group
    return Heat(
        list(columns.values()),
        [(name, [fields.get((key, name)) for key in columns]) for name in defenses],
    )
