"""What each choice in FMP, and each part of FMP+, is worth, one at a time.

    python benchmarks/ablations.py                   what is missing, then docs/ablations.*
    python benchmarks/ablations.py --only fmp_plus   of this method only
    python benchmarks/ablations.py --tell            measure nothing, write docs/ablations.* again

Each row changes one parameter. Results are kept in `cache/repairs`.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from headline import EPOCHS, Method
from repairs import Job, done, result
from subjects import names
from victims import ROOT, claimed

SUBJECTS = ("badnets-w16", "blended-w16")
LOW_RATE = ("badnets-1pc-w16", "blended-1pc-w16", "blended-0.5pc-w16")
CHANGES: dict[str, tuple[Any, ...]] = {
    "eps": (1 / 255, 0.03, 0.12),
    "p": (32, 16, 8),
    "ranking_images": (8, 128),
    "hold": (False,),
}
PARTS = {"disturbed": (0.0,), "turned": (1e-3,), "certainty": (0.0, 1.0)}
"""What FMP+ is without one of its parts: no disturbances, no climbs, soft answers, hard ones."""
JUDGES = ("badnets-w16", "blended-w16", "gtsrb-lf-w16", "cifar10-badnets-w32-short")
"""Where the parts of FMP+ are told apart; all of them had a say in it."""
CLEAN = (2500, 1000, 500)
"""Clean images, where fewer than the 5,000 of all other rows are given."""


@dataclass(frozen=True)
class Row:
    """One line: which choice, its value, and the job that measures it."""

    choice: str
    value: str
    job: Job


def plan() -> Iterator[Row]:
    """Every row, those that compare first."""
    base = {"epochs": EPOCHS}
    for name in JUDGES:
        yield Row("fmp_plus", "defaults", Method("", "fmp_plus").job(name))
        for choice, values in PARTS.items():
            for value in values:
                job = Method("", "fmp_plus", {choice: value}).job(name)
                yield Row(f"fmp_plus, {choice}", f"{value:.3g}", job)
    for name in (*SUBJECTS, *LOW_RATE):
        yield Row("none", "–", Job(name, "none"))
        yield Row("fine-tuning alone", "–", Job(name, "fine_tuning", base))
        yield Row("random pruning", "p = 64", Job(name, "random_pruning", base))
        yield Row("fmp", "defaults", Job(name, "fmp", base))
    for name in SUBJECTS:
        for choice, values in CHANGES.items():
            for value in values:
                shown = f"{value:.3g}" if isinstance(value, float) else str(value)
                yield Row(choice, shown, Job(name, "fmp", {**base, choice: value}))
        for count in CLEAN:
            params = {"epochs": EPOCHS * 5000 // count}
            yield Row("clean images, FMP", str(count), Job(name, "fmp", params, count))
            yield Row("clean images, tuning", str(count), Job(name, "fine_tuning", params, count))


HEADING = f"""# Choices, one at a time

    make ablations

`fmp_plus` without one of its parts: no disturbances (`disturbed` 0), no climbs (`turned` 0.001),
lessons of soft answers alone or of the answered class alone (`certainty`). `fmp` as in the paper,
but {EPOCHS} epochs of fine-tuning; each row changes one parameter. Fewer clean images get as many
steps. Victims of `docs/victims.md` and one from elsewhere; percent, with 95 % intervals. The low
poisoning rates have victims of their own.

What carries FMP+ is the disturbances, and on the victim of five epochs hard lessons: without climbs
ASR and RA stay nearly what they are, and after the re-activation attack so do they (`blended-w16`
61.5, with climbs 58.2; tried by hand).

| victim | choice | value | ACC | ASR | RA |
|---|---|---|---|---|---|
"""


def write() -> None:
    """Writes docs/ablations.md and docs/ablations.json."""
    from headline_page import between, measured_in

    rows = [
        {"victim": row.job.subject, "choice": row.choice, "value": row.value, **measured_in(told)}
        for row in plan()
        if (told := done(row.job)) is not None
    ]
    text = json.dumps(rows, indent=1) + "\n"
    (ROOT / "docs" / "ablations.json").write_text(text, encoding="utf-8")
    lines = [
        f"| {row['victim']} | {row['choice']} | {row['value']} | "
        f"{' | '.join(between(row, key) for key in ('acc', 'asr', 'ra'))} |\n"
        for row in rows
    ]
    (ROOT / "docs" / "ablations.md").write_text(HEADING + "".join(lines), encoding="utf-8")


def main() -> None:
    """Measures what is missing and writes the page."""
    asks = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asks.add_argument("--only", default="", help="a method")
    asks.add_argument("--tell", action="store_true", help="measure nothing")
    given, there = asks.parse_args(), names()
    for row in () if given.tell else plan():
        if row.job.subject in there and given.only in ("", row.job.method):
            with claimed(row.job.path.with_suffix("")) as mine:
                if mine and done(row.job) is None:
                    result(row.job)
                    print(row.job.subject, row.choice, row.value, flush=True)
    write()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
