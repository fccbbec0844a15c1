"""The geometry of the report's pictures; the template draws it. Shapes are SVG path data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from .rates import short

BINS = 48


@dataclass(frozen=True)
class Strip:
    """One layer's channels in a row, one unit each; the silenced ones as a path."""

    name: str
    channels: int
    silenced: tuple[int, ...]
    path: str

    @property
    def count(self) -> int:
        """How many channels are silenced."""
        return len(self.silenced)


@dataclass(frozen=True)
class Histogram:
    """One layer's scores: bars of the kept channels, a tick for every silenced one.

    The bars fill a box of BINS by 1, the ticks one of BINS by 1 below it.
    """

    name: str
    bars: str
    ticks: str
    low: str
    high: str
    silenced: int
    unranked: int


def strips(layers: Iterable[Mapping[str, Any]]) -> list[Strip]:
    """One strip a layer, in the record's order."""
    return [
        Strip(
            layer["name"],
            layer["channels"],
            tuple(sorted(layer["silenced"])),
            "".join(f"M{start} 0h{end - start}v1h{start - end}z" for start, end in _runs(layer)),
        )
        for layer in layers
    ]


def ranges(numbers: Iterable[int]) -> str:
    """Whole numbers with neighbours joined: `3, 7–9, 12`."""
    spans = _joined(sorted(numbers))
    return ", ".join(
        str(start) if end - start == 1 else f"{start}\N{EN DASH}{end - 1}" for start, end in spans
    )


def _runs(layer: Mapping[str, Any]) -> list[tuple[int, int]]:
    return _joined(sorted(layer["silenced"]))


def _joined(ordered: Sequence[int]) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    for number in ordered:
        if spans and spans[-1][1] == number:
            spans[-1] = (spans[-1][0], number + 1)
        else:
            spans.append((number, number + 1))
    return spans


def logarithmic(layers: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a few scores are so large that only a logarithmic axis shows the others."""
    ranked = [scores for layer in layers if (scores := _finite(layer))]
    if not ranked or min(map(min, ranked)) <= 0:
        return False
    return any(max(scores) > 20 * median(scores) for scores in ranked)


def histograms(layers: Sequence[Mapping[str, Any]], log: bool) -> list[Histogram]:
    """One histogram a layer that was ranked, each over its own range of scores."""
    return [_histogram(layer, log) for layer in layers if _finite(layer)]


def _finite(layer: Mapping[str, Any]) -> list[float]:
    return [score for score in layer["scores"] or () if _is_number(score)]


def _is_number(score: float | None) -> bool:
    return score is not None and math.isfinite(score)


def _histogram(layer: Mapping[str, Any], log: bool) -> Histogram:
    finite, silenced = _finite(layer), set(layer["silenced"])
    low, high = min(finite), max(finite)
    start, end = (math.log(low), math.log(high)) if log else (low, high)

    def place(score: float) -> float:
        along = (math.log(score) if log else score) - start
        return along / (end - start) if end > start else 0.5

    bars, ticks = [0] * BINS, set()
    for channel, score in enumerate(layer["scores"]):
        if not _is_number(score):
            continue
        if channel in silenced:
            ticks.add(round(place(score) * BINS, 2))
        else:
            bars[min(BINS - 1, int(place(score) * BINS))] += 1
    return Histogram(
        name=layer["name"],
        bars=_bars(bars),
        ticks="".join(f"M{x:g} 0v1" for x in sorted(ticks)),
        low=short(low),
        high=short(high),
        silenced=len(silenced),
        unranked=len(layer["scores"]) - len(finite),
    )


def _bars(counts: Sequence[int]) -> str:
    tallest = max(counts) or 1
    return "".join(
        f"M{x} 1v-{round(number / tallest, 3):g}h1V1z" for x, number in enumerate(counts) if number
    )
