"""What `scan` does: look, judge, and tell it as a record, as files and as lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from .. import evidence
from ..checkpoints import hub
from ..core import record
from ..core.errors import ModelError
from ..core.images import Images, to_float, to_uint8
from ..core.method import build
from ..core.run import Run
from ..models import Normalized
from ..report import cyclonedx, sarif, scan_page
from ..scanners.base.calibration import Calibration
from ..scanners.base.scanner import Finding, Scanner
from ..scanners.base.verdict import QUICK, Outcome, Verdict, judged
from . import inputs, output
from .console import Console, table
from .repairing import picture

REPORT, SARIF, BOM = "report.html", "scan.sarif", "model.cdx.json"
FIRST = QUICK
"""The scanner that gives a first answer within seconds."""
EXAMPLES = 4


@dataclass(frozen=True, eq=False)
class Scanned:
    """A model, the images it was scanned with, by whom, and the verdict."""

    model: Normalized
    clean: Images
    scanner: Scanner
    verdict: Verdict


@dataclass(frozen=True, eq=False)
class Case:
    """A model to scan, and where its clean images come from; None if there are none."""

    path: Path
    model: Normalized
    source: str | None
    download: bool
    columns: str | None

    def images(self, run: Run) -> Images:
        """The clean images, or blank ones of the model's size."""
        if self.source:
            return inputs.Sources(self.model, run, self.download, self.columns).images(self.source)
        return evidence.blank(self.model)

    def scanned(
        self,
        asked: Sequence[Scanner],
        run: Run,
        known: Calibration,
        minutes: float | None,
        console: Console,
        command: str,
    ) -> tuple[dict[str, Any], list[Scanned]]:
        """The record of the scan, and what each scanner said."""
        if not self.source:
            asked[-1].go_without_images()
        heading = record.heading("scan", command)
        clean = self.images(run)
        found = scanned(
            asked, self.model, clean, run, known, minutes, console.say, real=bool(self.source)
        )
        counts = deciding(found)
        full = {
            **heading,
            "model": record.of_model(self.model, self.model.spec, hub.weights_file(self.path)),
            "clean": record.of_images(self.source, clean) if self.source else None,
            **told(counts, run),
            "other_scan": next((in_short(one) for one in found if one is not counts), None),
            "warnings": console.warned,
            **record.of_run(run),
        }
        return full, found


def in_short(one: Scanned) -> dict[str, Any]:
    """The verdict for a record that holds another one, too."""
    verdict = one.verdict
    return {
        "scanner": one.scanner.name(),
        "outcome": str(verdict.outcome),
        "reason": verdict.reason,
        "leading": _name(one, verdict.finding.leading) if verdict.finding else None,
        "score": verdict.finding and verdict.finding.score,
        "p_value": verdict.alarms and verdict.alarms.p_value,
    }


def _name(one: Scanned, label: int | None) -> str | None:
    return None if label is None else one.clean.classes[label]


def located(path: Path) -> str:
    """The path of the model as a reader of the repository finds it: relative where it can be."""
    whole = path.absolute()
    here = Path.cwd()
    return (whole.relative_to(here) if whole.is_relative_to(here) else Path(path.name)).as_posix()


def scanners(name: str, parameters: dict[str, Any]) -> list[Scanner]:
    """The quick scanner that answers first, and the one asked for."""
    chosen = [build("scanner", name, parameters)]
    if name != FIRST:
        chosen.insert(0, build("scanner", FIRST))
    return [scanner for scanner in chosen if isinstance(scanner, Scanner)]


def deciding(found: Sequence[Scanned]) -> Scanned:
    """Whose verdict counts: the scanner asked for, unless only the first look found something."""
    first, last = found[0], found[-1]
    alarm = first.verdict.outcome is Outcome.suspicious
    return first if alarm and last.verdict.outcome is Outcome.not_judged else last


def scanned(
    asked: Sequence[Scanner],
    model: Normalized,
    clean: Images,
    run: Run,
    known: Calibration,
    minutes: float | None,
    say: Callable[[str], None],
    *,
    real: bool,
) -> list[Scanned]:
    """The verdict of each scanner; `say` is told of each as it comes."""
    found: list[Scanned] = []
    start = time.perf_counter()
    for scanner in asked:
        if not real and scanner.needs_images:
            continue
        left = minutes and max(0.0, minutes - (time.perf_counter() - start) / 60)
        try:
            verdict = judged(scanner, model, clean, run, known, left, real=real)
        except ModelError as error:
            if scanner is asked[-1]:
                raise
            say(f"{scanner.name()}: {error}")  # a first look is not worth an end
            continue
        found.append(Scanned(model, clean, scanner, verdict))
        if len(asked) > 1:
            say(f"{scanner.name()}: {brief(found[-1])}")
    return found


def brief(one: Scanned) -> str:
    """The verdict on one line."""
    verdict = one.verdict
    parts = [str(verdict.outcome)]
    if verdict.suspect is not None:
        parts.append(f"class {one.clean.classes[verdict.suspect]!r}")
    if verdict.reason:
        parts.append(verdict.reason)
    if verdict.alarms:
        parts.append(f"p = {verdict.alarms.p_value:.3f}")
        if verdict.alarms.other_kinds:
            parts.append("calibrated on other networks")
    return ", ".join(parts)


def told(one: Scanned, run: Run) -> dict[str, Any]:
    """The part of the record that a verdict tells."""
    verdict, classes = one.verdict, one.clean.classes
    finding, alarms, kind = verdict.finding, verdict.alarms, verdict.kind
    return {
        "scanner": record.of_method(one.scanner),
        "outcome": str(verdict.outcome),
        "reason": verdict.reason,
        "suspect": None
        if verdict.suspect is None
        else {"class": verdict.suspect, "name": classes[verdict.suspect]},
        "score": finding and finding.score,
        "alarms": alarms
        and {
            "p_value": alarms.p_value,
            "threshold": alarms.threshold,
            "false_alarms": alarms.false_alarms.as_json(),
            "interval": list(alarms.false_alarms.interval()),
            "expected": alarms.expected,
            "other_kinds": alarms.other_kinds,
        },
        "calibration": kind and kind.model_dump(include={"arch", "options", "classes", "models"}),
        "accuracy": verdict.accuracy
        and {**verdict.accuracy.as_json(), "interval": list(verdict.accuracy.interval())},
        "statistic": one.scanner.statistic,
        "classes": finding and [round(value, 6) for value in finding.classes.tolist()],
        "leading": finding.leading if finding else None,
        "reach": finding and finding.reach,
        "notes": dict(finding.notes) if finding else {},
        "pictures": pictures(one, run),
    }


def pictures(one: Scanned, run: Run) -> dict[str, Any] | None:
    """The change that was found, made visible, and a few images with and without it."""
    finding = one.verdict.finding
    if finding is None or finding.change is None or finding.leading is None:
        return None
    others = one.clean[one.clean.labels != finding.suspect][:EXAMPLES]
    x = to_float(others.pixels)
    changed = finding.applied(x)
    model = one.model.to(run.device).eval()
    with torch.no_grad():
        before, after = (model(part.to(run.device)).argmax(1).tolist() for part in (x, changed))
    names = one.clean.classes
    return {
        "change": picture(_visible(finding)),
        "size": float(torch.linalg.vector_norm(changed - x, dim=(1, 2, 3)).mean()),
        "examples": [
            {
                "truth": names[int(others.labels[place])],
                "clean": picture(others.pixels[place]),
                "changed": picture(to_uint8(changed[place])),
                "before": names[before[place]],
                "after": names[after[place]],
            }
            for place in range(len(others))
        ],
    }


def _visible(finding: Finding) -> Tensor:
    """The change as an image: what is added around grey, stretched; a patch under its mask.

    Of a warp red is how far to the right a pixel is taken from, green how far down.
    """
    assert finding.change is not None
    if finding.mask is not None:
        return to_uint8(finding.mask * finding.change)
    change = finding.change
    if finding.warp:
        change = torch.cat([change, torch.zeros_like(change[:1])])
    return to_uint8(0.5 + change / (2 * change.abs().max().clamp_min(1e-9)))


def write(out: Path, full: dict[str, Any], location: str) -> None:
    """Writes the record, the page, SARIF and the bill of materials into `out`, or nothing."""
    with output.written(out) as folder:
        (folder / REPORT).write_text(scan_page(full), encoding="utf-8")
        output.write_json(folder / SARIF, sarif(full, location))
        output.write_json(folder / BOM, cyclonedx(full))
        output.write_json(folder / output.RECORD, full)


def shown(one: Scanned) -> Table:
    """The verdict and the classes that stand out most, for a terminal."""
    verdict, names = one.verdict, one.clean.classes
    rows = [("verdict", brief(one))]
    if verdict.finding:
        rows.append(("score", f"{verdict.finding.score:.4g}"))
    if verdict.alarms:
        alarms = verdict.alarms
        low, high = alarms.false_alarms.interval()
        rows += [
            ("threshold", f"{alarms.threshold:.4g}"),
            ("p-value", f"{alarms.p_value:.3f}"),
            (
                "false alarms, each kind of network held out in turn"
                if alarms.other_kinds
                else "clean models above the threshold",
                f"{alarms.false_alarms.hits} of {alarms.false_alarms.total} "
                f"({100 * low:.1f} to {100 * high:.1f} %)",
            ),
        ]
    if verdict.finding:
        values = verdict.finding.classes
        for label in values.argsort(descending=True)[:3].tolist():
            rows.append((f"class {names[label]}", f"{float(values[label]):.4g}"))
    grid = table(("", one.scanner.name()), rows)
    grid.columns[1].justify, grid.columns[1].no_wrap = "left", False
    return grid
