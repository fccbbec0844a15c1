"""The page of a scan: one offline HTML file, drawn from its record."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .rates import percent, short
from .templating import html
from .words import Tone, Verdict

_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
SHOWN = 60
"""So many classes are drawn, those that stand out most."""


@dataclass(frozen=True)
class Bar:
    """A class and its number; where its bar starts and how long it is, in percent."""

    name: str
    value: str
    start: float
    length: float
    suspect: bool


def scan_page(record: Mapping[str, Any]) -> str:
    """The HTML text of the report of a scan's `record`: one file, no requests."""
    return (
        html()
        .get_template("scan.html.j2")
        .render(
            record=record,
            verdict=verdict(record),
            bars=bars(record),
            pictures=pictures(record),
            limits=limits(record),
        )
    )


def verdict(record: Mapping[str, Any]) -> Verdict:
    """What a scan's record says, and no more than was measured."""
    outcome, alarms = record["outcome"], record["alarms"]
    tone: Tone = "unknown"
    if outcome == "suspicious":
        tone, claim = (
            "bad",
            f"Suspicious: a backdoor may lead to class “{record['suspect']['name']}”",
        )
    elif outcome == "not judged":
        told = _score(record) if alarms else _leading(record)
        return Verdict(tone, "Not judged", (f"{_capital(record['reason'])}.", *told))
    else:
        claim = "No sign of a backdoor found"
    return Verdict(
        tone,
        claim,
        (
            *_score(record),
            "That is no proof that the model is clean."
            if outcome != "suspicious"
            else f"About {percent(alarms['expected'])} of clean models are called suspicious.",
        ),
    )


def _score(record: Mapping[str, Any]) -> tuple[str, str]:
    """The score beside its threshold, and how often clean models are above it."""
    score, threshold = short(record["score"]), short(record["alarms"]["threshold"])
    told = f"The score is {score}; above {threshold} a model is called suspicious."
    return told, _alarms(record["alarms"])


def _alarms(alarms: Mapping[str, Any]) -> str:
    """How often clean models are called suspicious, and which clean models these are."""
    rate, (low, high) = alarms["false_alarms"], alarms["interval"]
    told = f"{percent(low)} to {percent(high)}); p = {alarms['p_value']:.3f}"
    if not alarms.get("other_kinds"):
        return f"Of {rate['total']} clean models of this kind {rate['hits']} are above ({told}."
    return (
        f"Calibrated on other networks, because too few clean models of this kind are known: of "
        f"{rate['total']} clean models of {alarms['other_kinds']} kinds {rate['hits']} were "
        f"called suspicious when their own kind was held out ({told}."
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _leading(record: Mapping[str, Any]) -> tuple[str, ...]:
    if record["leading"] is None:
        return ()
    name = record["model"]["classes"][record["leading"]]
    return (f"The class that stands out most is “{name}”; how unusual that is, is not known.",)


def bars(record: Mapping[str, Any]) -> list[Bar]:
    """A bar for every class, in order of the classes; of many only those that stand out."""
    values = record["classes"]
    if not values:
        return []
    low, high = min(0.0, *values), max(0.0, *values)
    span = (high - low) or 1.0
    chosen = sorted(range(len(values)), key=lambda place: -values[place])[:SHOWN]
    return [
        Bar(
            str(record["model"]["classes"][place]),
            short(values[place]),
            round(100 * (min(0.0, values[place]) - low) / span, 2),
            round(100 * abs(values[place]) / span, 2),
            place == record["leading"],
        )
        for place in sorted(chosen)
    ]


def pictures(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The pictures of the record, if they are pictures."""
    found = record["pictures"]
    if found is None:
        return None
    texts = [found["change"]]
    texts += [example[kind] for example in found["examples"] for kind in ("clean", "changed")]
    return found if all(_BASE64.fullmatch(text) for text in texts) else None


def limits(record: Mapping[str, Any]) -> list[str]:
    """What the page does not show."""
    found = [
        "A scan finds signs. It cannot show that a model is clean.",
        f"{record['scanner']['name']}: {record['scanner']['limits']}.",
    ]
    if record["alarms"] and record["alarms"].get("other_kinds"):
        found.append(
            "Networks unlike those of the calibration may be called suspicious more often."
        )
    elif record["alarms"]:
        found.append(
            "The rate of false alarms holds for models like those of the calibration: "
            f"{record['calibration']['models']}."
        )
    return found
