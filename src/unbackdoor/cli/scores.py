"""Scores as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from ..core.measure import Rate, Score
from .console import table

MEANINGS = {"acc": "accuracy (ACC)", "asr": "attack success (ASR)", "ra": "robust accuracy (RA)"}

LEARNED = {
    "relabelled": "learned, relabelled training images",
    "clean": "learned, clean training images",
    "training_asr": "ASR on training images of other classes",
}


def shown(agreement: Rate | None = None, **scores: Score) -> Table:
    """A row a rate, a column a score: the percentage and its 95 % interval.

    `agreement` is how often the model of the last column answers as that of the first.
    """
    rows = [
        (meaning, *(_cell(getattr(score, name)) for score in scores.values()))
        for name, meaning in MEANINGS.items()
    ]
    if agreement:
        rows.append(("same class as before", *[""] * (len(scores) - 1), _cell(agreement)))
    return table(("", *scores), rows)


def planted(
    score: Score,
    learned: Mapping[str, Rate],
    seen: Mapping[str, Mapping[str, float | None] | None],
    elsewhere: Rate | None = None,
) -> Table:
    """The score of a victim, what it learned of its training images, how visible the trigger is.

    `elsewhere` is the ASR of a source-specific attack on classes that are no sources.
    """
    rows = [(meaning, _cell(getattr(score, name))) for name, meaning in MEANINGS.items()]
    rows += [("ASR on classes that are no sources", _cell(elsewhere))] if elsewhere else []
    rows += [(LEARNED.get(kind, kind), _cell(rate)) for kind, rate in learned.items()]
    for when, found in seen.items():
        if found:
            psnr = "no change" if found["psnr"] is None else f"{found['psnr']:.1f} dB"
            rows += [
                (f"PSNR of triggered images, {when}", psnr),
                (f"SSIM, {when}", f"{found['ssim']:.3f}"),
                (f"largest change (L-inf), {when}", f"{found['linf']:.3f}"),
            ]
    return table(("", "victim"), rows)


def _cell(rate: Rate | None) -> str:
    if rate is None or not rate.total:
        return "not measured"
    low, high = rate.interval()
    return f"{100 * rate.value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
