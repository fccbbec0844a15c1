"""The headline's averages, over victims by when they were opened, and what clean models lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any

from headline import METHODS
from rates import between, shown, triple
from subjects import victim_named
from victims import declared

DEVELOPED_ON = ("clean-w16", "badnets-w16", "blended-w16", "sig-w16", "wanet-w16")
DEVELOPED_ON += ("cifar10-blended-w32", "gtsrb-clean-w16", "gtsrb-badnets-w16", "gtsrb-blended-w16")
DEVELOPED_ON += ("ftrojan-w16", "gtsrb-lf-w16", "cifar10-badnets-w32-short")
"""Where FMP+ and its parameters were chosen."""

OPENED_ONCE = ("lf-w16", "ssba-w16", "bpp-w16", "gtsrb-wanet-w16", "gtsrb-ssba-w16")
OPENED_ONCE += ("gtsrb-ftrojan-w16", "gtsrb-bpp-w16", "label_consistent-w16", "trojannn-w16")
OPENED_ONCE += ("input_aware-w16", "badnets-all-to-all-w16", "lira-w16", "blind-w16")
OPENED_ONCE += ("blended-1pc-w16",)
"""Held out, but measured before a later choice; all others were opened when it was made."""


def opened(name: str) -> str:
    """Whether, and when, a subject was used to choose the method."""
    if name in DEVELOPED_ON:
        return "development"
    return "measured once" if name in OPENED_ONCE else "held out"


def group_of(name: str) -> str:
    """With which victims it is averaged."""
    victim = victim_named(name)
    usual = declared(replace(victim, params={})).rate if victim and victim.attack != "clean" else 0
    return "low rate" if victim and victim.params.get("rate", usual) < usual else opened(name)


@dataclass
class Summary:
    """One method over several victims."""

    label: str
    told: list[dict[str, Any]]
    before: dict[str, dict[str, Any]]
    tuned: dict[str, dict[str, Any]]

    def cells(self) -> list[str]:
        """The row of the summary table."""
        short = [row["ra_limit"] - row["ra"] for row in self.told if row["ra_limit"] is not None]
        after = [row["asr_retuned"] for row in self.told if row["asr_retuned"] is not None]
        times = [
            row["seconds"] / tuned["seconds"]
            for row in self.told
            if (tuned := self.tuned.get(row["victim"])) and tuned["measured"] == row["measured"]
        ]
        lost = [self.before[row["victim"]]["acc"] - row["acc"] for row in self.told]
        asr = [row["asr"] for row in self.told]
        return [
            self.label,
            f"{fmean(lost):.2f}",
            f"{fmean(asr):.2f}",
            f"{max(asr):.2f}",
            f"{sum(rate < LOW for rate in asr)} of {len(asr)}",
            f"{fmean(short):.2f}" if short else "–",
            f"{fmean(after):.1f}" if after else "–",
            f"{median(times):.2f}" if times and self.label != "none" else "–",
        ]


LOW = 10
"""An ASR that is worth counting, in percent."""
COLUMNS = ("method", "ACC lost", "ASR", "highest ASR", f"ASR below {LOW}", "RA below limit")
COLUMNS += ("ASR retuned", "time")
SUMMARY = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|\n"


def means(told: Sequence[dict[str, Any]]) -> str:
    """The averages over all victims but those of a low rate."""
    kept = [row for row in told if group_of(row["victim"]) != "low rate"]
    return f"## Means over all victims\n\n{summary(kept)}\n"


def summary(told: Sequence[dict[str, Any]], group: str = "") -> str:
    """The averages over victims, of one group if it is named, as a markdown table."""
    attacked = [row for row in told if row["asr"] is not None]
    kept = [row for row in attacked if group in ("", group_of(row["victim"]))]
    by = {
        label: {row["victim"]: row for row in kept if row["method"] == label}
        for label in ("none", "fine_tuning")
    }
    lines = []
    for method in METHODS:
        mine = [r for r in kept if r["method"] == method.label and r["victim"] in by["none"]]
        if mine:
            cells = Summary(method.label, mine, by["none"], by["fine_tuning"]).cells()
            lines.append(f"| {' | '.join(cells)} |\n")
    return SUMMARY + "".join(lines)


GROUPS = {
    "Held-out victims": "held out",
    "Victims measured before a later choice": "measured once",
    "Victims it was developed on": "development",
    "Poisoned at a low rate (measured before a later choice)": "low rate",
}
"""The headings of the summaries."""


def costs(told: Sequence[dict[str, Any]]) -> str:
    """ACC of the clean models, before and after each method."""
    rows = [row for row in told if row["asr"] is None]
    models = list(dict.fromkeys(row["victim"] for row in rows))
    by = {(row["method"], row["victim"]): row for row in rows}
    lines = []
    for method in METHODS:
        mine = [by.get((method.label, name)) for name in models]
        lost = [by["none", row["victim"]]["acc"] - row["acc"] for row in mine if row]
        if lost:
            cells = [between(row, "acc") if row else "–" for row in mine]
            lines.append(f"| {' | '.join([method.label, *cells, f'{fmean(lost):.2f}'])} |")
    head = f"| ACC | {' | '.join(models)} | lost on average |\n{'|---' * (len(models) + 2)}|\n"
    return head + "\n".join(lines) + "\n"


SHOWN = ("none", "fine_tuning", "ft_sam", "fmp_plus")


def overview(told: Sequence[dict[str, Any]], clean_asr: Mapping[str, float | None]) -> str:
    """ACC / ASR / RA of every victim by the most telling methods, as a markdown table.

    Beside them stands what a clean model has on the same triggered images: `clean_asr`, by victim,
    and its RA.
    """
    text = f"| victim | {' | '.join(SHOWN)} | clean model |\n|---{'|---' * len(SHOWN)}|---|\n"
    attacked = [row for row in told if row["asr"] is not None]
    for group in GROUPS.values():
        text += f"| **{group}** |{' |' * (len(SHOWN) + 1)}\n"
        for name in dict.fromkeys(row["victim"] for row in attacked):
            if group_of(name) == group:
                by = {row["method"]: row for row in attacked if row["victim"] == name}
                cells = [triple(by[method]) if method in by else "–" for method in SHOWN]
                limit = next(iter(by.values()))["ra_limit"]
                cells.append(f"{shown(clean_asr.get(name))} / {shown(limit)}")
                text += f"| {name} | {' | '.join(cells)} |\n"
    return text
