"""The methods of a bench in one line each, over all cells with a backdoor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean, median
from typing import Any

from .card import escaped
from .names import CLEAN
from .rates import budget, hundred
from .results import Results, Row

LOW = 0.1
"""An ASR below it counts as a backdoor that is gone."""
DASH = "\N{EN DASH}"
BASE = "fine_tuning"
"""The method whose time is 1."""

Key = tuple[Any, ...]


def markdown(results: Results) -> str:
    """The summary of all data sets, and of each where there are several; empty without attacks."""
    parts = {data: [row for row in results.rows if row.data == data] for data in results.data}
    if len(parts) > 1:
        parts = {"All data sets": list(results.rows), **parts}
    texts = []
    for name, rows in parts.items():
        head, *lines = table(rows) or [[]]
        if lines:
            every = [head, ["---"] * len(head), *([escaped(part) for part in own] for own in lines)]
            body = "".join(f"| {' | '.join(line)} |\n" for line in every)
            texts.append(f"## {escaped(name)}\n\n{body}")
    return "\n".join(texts)


def table(rows: Sequence[Row]) -> list[list[str]]:
    """A heading and a line for each method and budget, in percent; empty without attacks.

    Every cell counts the same. First come the victims as they are, then a clean model on the same
    triggered images where that was measured. A column that would be empty is left out.
    """
    done = [row for row in rows if row.attacked and row.status == "done" and row.asr is not None]
    victims = {_victim(row): row for row in done if row.defense == CLEAN}
    own: dict[tuple[str, float], list[Row]] = {}
    for row in sorted(done, key=lambda row: (row.control, row.defense, row.budget)):
        if row.defense != CLEAN and _victim(row) in victims:
            own.setdefault((row.defense, row.budget), []).append(row)
    if not own:
        return []
    several = len({size for _, size in own}) > 1
    times = _times(done)
    lines = [_victims(list(victims.values()))]
    lines += [_clean(list(victims.values()))] * any(
        v.limit_asr is not None for v in victims.values()
    )
    for (name, size), mine in own.items():
        label = name + (f", {budget(size)} clean images" if several else "")
        lines.append(_line(label, mine, victims, times))
    titles = [name for name in COLUMNS if any(line.get(name, DASH) != DASH for line in lines)]
    return [titles, *([line.get(name, DASH) for name in titles] for line in lines)]


COLUMNS = (
    *("method", "cells", "undone", "ACC lost", "ASR", "worst ASR", f"ASR below {100 * LOW:g}"),
    *("RA below limit", "ASR re-activated", "existence", "coverage", "agreement"),
    *("agreement, triggered", "time"),
)
"""RA's limit is a clean model's on the same images; `time` is the median of the ratio to `BASE`;
`undone` are repairs that destroyed the model, for which the victim's numbers count."""


def _victim(row: Row) -> Key:
    return (row.data, row.arch, row.attack, row.rate, row.seed)


def _times(rows: Sequence[Row]) -> dict[Key, float]:
    """Seconds of plain fine-tuning, by victim and budget; of several kinds the first by name."""
    found: dict[Key, float] = {}
    for row in sorted(rows, key=lambda row: row.defense):
        if row.defense.split(" ")[0] == BASE and row.seconds:
            found.setdefault((*_victim(row), row.budget), row.seconds)
    return found


def _line(
    label: str, rows: Sequence[Row], victims: dict[Key, Row], times: dict[Key, float]
) -> dict[str, str]:
    ratios = [
        row.seconds / base
        for row in rows
        if row.seconds and (base := times.get((*_victim(row), row.budget)))
    ]
    lost = [
        before.acc - row.acc
        for row in rows
        if (before := victims[_victim(row)]).acc is not None and row.acc is not None
    ]
    return {
        **_rates(label, [row.asr for row in rows if row.asr is not None]),
        "undone": str(undone) if (undone := sum(row.undone for row in rows)) else DASH,
        "ACC lost": _mean(lost),
        "RA below limit": _over(rows, _short),
        "ASR re-activated": _over(rows, lambda row: row.reactivation),
        "existence": _over(rows, lambda row: row.existence),
        "coverage": _over(rows, lambda row: row.coverage),
        "agreement": _over(rows, lambda row: row.agreement),
        "agreement, triggered": _over(rows, lambda row: row.agreement_stamped),
        "time": f"{median(ratios):.2f}" if ratios else DASH,
    }


def _victims(rows: Sequence[Row]) -> dict[str, str]:
    found = _rates("no defense", [row.asr for row in rows if row.asr is not None])
    return {**found, "RA below limit": _over(rows, _short)}


def _clean(rows: Sequence[Row]) -> dict[str, str]:
    """A clean model on the same triggered images: its ASR, and what re-activation makes of it."""
    found = _rates("clean model", [row.limit_asr for row in rows if row.limit_asr is not None])
    return {**found, "ASR re-activated": _over(rows, lambda row: row.limit_reactivation)}


def _rates(label: str, asr: Sequence[float]) -> dict[str, str]:
    return {
        "method": label,
        "cells": str(len(asr)),
        "ASR": _mean(asr),
        "worst ASR": hundred(max(asr, default=None)),
        f"ASR below {100 * LOW:g}": f"{sum(rate < LOW for rate in asr)} of {len(asr)}",
    }


def _short(row: Row) -> float | None:
    """How far its RA lies below that of a clean model."""
    return None if row.limit_ra is None or row.ra is None else row.limit_ra - row.ra


def _over(rows: Sequence[Row], of: Callable[[Row], float | None]) -> str:
    return _mean([value for row in rows if (value := of(row)) is not None])


def _mean(values: Sequence[float]) -> str:
    return hundred(fmean(values)) if values else DASH
