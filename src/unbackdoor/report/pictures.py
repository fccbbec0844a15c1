"""The geometry of the report's pictures; the template draws it. Shapes are SVG path data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from .rates import short

BINS = 40
"""The most bars in one histogram."""


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

    The bars fill a box of `bins` by 1, the ticks one of the same size below it.
    """

    name: str
    bins: int
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
    scaled = [math.log(score) if log else score for score in finite]
    start, width, bins = _axis(scaled)
    bars, ticks = [0] * bins, set()
    channels = [at for at, score in enumerate(layer["scores"]) if _is_number(score)]
    for channel, score in zip(channels, scaled, strict=True):
        place = (score - start) / width
        if channel in silenced:
            ticks.add(round(place, 2))
        else:
            bars[min(bins - 1, int(place))] += 1
    return Histogram(
        name=layer["name"],
        bins=bins,
        bars=_bars(bars),
        ticks="".join(f"M{x:g} 0v1" for x in sorted(ticks)),
        low=short(min(finite)),
        high=short(max(finite)),
        silenced=len(silenced),
        unranked=len(layer["scores"]) - len(finite),
    )


def _axis(scores: Sequence[float]) -> tuple[float, float, int]:
    """(start, width of a bin, bins). Shares of few images lie on a grid: bins then hold whole steps

    of it, or the picture would show a comb that is not in the data.
    """
    levels = sorted(set(scores))
    low, reach = levels[0], levels[-1] - levels[0]
    if not reach:
        return low - 0.5, 1.0, 1
    step = max(reach / 1e6, min(b - a for a, b in pairwise(levels)))
    steps = round(reach / step) + 1
    if steps > 8 * BINS:
        return low, reach / BINS, BINS
    together = math.ceil(steps / BINS)
    return low - step / 2, together * step, math.ceil(steps / together)


def _bars(counts: Sequence[int]) -> str:
    tallest = max(counts) or 1
    return "".join(
        f"M{x} 1v-{round(number / tallest, 3):g}h1V1z" for x, number in enumerate(counts) if number
    )
