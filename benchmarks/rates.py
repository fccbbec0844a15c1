"""Rates as rows keep them, in percent with their intervals, and as tables show them."""

from __future__ import annotations

from typing import Any

from unbackdoor.core.measure import Rate


def measured_in(told: dict[str, Any]) -> dict[str, Any]:
    """ACC, ASR and RA in percent, each with its 95 % interval."""
    measured: dict[str, Any] = {}
    for key in ("acc", "asr", "ra"):
        rate = told[key] and Rate(told[key]["hits"], told[key]["total"])
        measured[key] = rate and percent(rate.value)
        measured[f"{key}_interval"] = rate and [percent(end) for end in rate.interval()]
    return measured


def percent(share: float) -> float:
    """In percent, two digits."""
    return round(100 * share, 2)


def between(row: dict[str, Any], key: str) -> str:
    """A rate with its interval."""
    if row[key] is None:
        return "–"
    low, high = row[f"{key}_interval"]
    return f"{row[key]:.1f} ({low:.1f} to {high:.1f})"


def shown(value: float | None) -> str:
    """A number, or a dash."""
    return "–" if value is None else f"{value:.1f}"


def triple(row: dict[str, Any]) -> str:
    """The three rates, without intervals."""
    return " / ".join(f"{row[key]:.1f}" for key in ("acc", "asr", "ra"))
