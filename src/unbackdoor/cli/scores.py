"""Scores as a person reads them."""

from __future__ import annotations

from rich.table import Table

from ..measure import Rate, Score
from .console import table

MEANINGS = {"acc": "accuracy (ACC)", "asr": "attack success (ASR)", "ra": "robust accuracy (RA)"}


def shown(**scores: Score) -> Table:
    """A row a rate, a column a score: the percentage and its 95 % interval."""
    rows = [
        (meaning, *(_cell(getattr(score, name)) for score in scores.values()))
        for name, meaning in MEANINGS.items()
    ]
    return table(("", *scores), rows)


def _cell(rate: Rate | None) -> str:
    if rate is None or not rate.total:
        return "not measured"
    low, high = rate.interval()
    return f"{100 * rate.value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
