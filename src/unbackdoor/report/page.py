"""The report of a repair: one offline HTML file, drawn from its record."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from . import pictures
from .rates import Share, share
from .templating import html
from .words import goal, limits, story, verdict

Mark = Literal["right", "wrong", "goal"]

_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")


@dataclass(frozen=True)
class Measure:
    """One row of the before and after table."""

    short: str
    name: str
    of: str
    better: str
    before: Share | None
    after: Share | None


@dataclass(frozen=True)
class Guess:
    """What the model said of an image: when, which class, and what that means."""

    when: str
    name: str
    mark: Mark


@dataclass(frozen=True)
class Picture:
    """An example image as base64 PNG with what the model said of it."""

    kind: str
    png: str
    guesses: tuple[Guess, ...]

    @property
    def shown(self) -> str:
        """What the page calls its kind."""
        return "triggered" if self.kind == "stamped" else self.kind


@dataclass(frozen=True)
class Example:
    """One test image: its true class, clean, and with the trigger where such a one was given."""

    truth: str
    pictures: tuple[Picture, ...]


def repair_page(record: Mapping[str, Any]) -> str:
    """The HTML text of the report of a repair's or a demo's `record`: one file, no requests."""
    layers = record["layers"]
    shown = examples(record)
    log = pictures.logarithmic(layers)
    return (
        html()
        .get_template("repair.html.j2")
        .render(
            record=record,
            verdict=verdict(record),
            measures=measures(record),
            examples=shown,
            stamped=any(picture.kind == "stamped" for found in shown for picture in found.pictures),
            story=story(record),
            limits=limits(record),
            strips=pictures.strips(layers),
            histograms=pictures.histograms(layers, log),
            log=log,
        )
    )


def measures(record: Mapping[str, Any]) -> list[Measure]:
    """Accuracy, attack success and recovery, each before and after."""

    before, after, right = record["before"], record["after"], "that go to their true class"
    return [
        Measure(name.upper(), words, of, better, share(before, name), share(after, name))
        for name, words, of, better in (
            ("asr", "Attack success rate", f"triggered images that go to {goal(record)}", "lower"),
            ("ra", "Robust accuracy", f"triggered images {right}", "higher"),
            ("acc", "Accuracy", f"{record['acc_on']} {right}", "higher"),
        )
    ]


def examples(record: Mapping[str, Any]) -> list[Example]:
    """The example images that the record holds."""
    return [_example(found, record) for found in record["examples"]]


def _example(found: Mapping[str, Any], record: Mapping[str, Any]) -> Example:
    shown = []
    for kind in ("clean", "stamped"):
        if found[kind] and _BASE64.fullmatch(found[kind]):
            guesses = tuple(
                Guess(when, said[kind], _mark(said[kind], found["truth"], kind, record))
                for when in ("before", "after")
                if (said := found[when]) and said[kind] is not None
            )
            shown.append(Picture(kind, found[kind], guesses))
    return Example(found["truth"], tuple(shown))


def _mark(said: str, truth: str, kind: str, record: Mapping[str, Any]) -> Mark:
    if said == truth:
        return "right"
    return "goal" if kind == "stamped" and said == _goal_of(truth, record) else "wrong"


def _goal_of(truth: str, record: Mapping[str, Any]) -> str | None:
    """The class that the attacker wants for a triggered image of class `truth`, where known."""
    target, classes = (record["triggered"] or {}).get("target"), record["model"]["classes"]
    if target == "all-to-all" and truth in classes:
        target = (classes.index(truth) + 1) % len(classes)
    if isinstance(target, int) and 0 <= target < len(classes):
        return str(classes[target])
    return None
