"""What `benchmarks/population.py` makes of scores: the shipped calibration, and a table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from unbackdoor.core.files import write_whole
from unbackdoor.core.measure import Rate
from unbackdoor.core.method import find
from unbackdoor.scanners.base import calibration
from unbackdoor.scanners.base.scanner import Scanner
from unbackdoor.scanners.base.verdict import FEWEST_MODELS, standing

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "src" / "unbackdoor" / "scanners" / "base" / "calibration.json"
CALIBRATING = 19
"""A threshold of so many clean models of a kind is tried on the others, to count false alarms."""

FEW = 2
"""Of a scanner that compares the classes of a model, so few models of a kind are worth keeping:
kinds are pooled to judge one that is not known."""

WORKS = 0.7
"""A model with a lower ASR holds no backdoor worth the name; it is counted apart."""

Half = tuple[str, tuple[str, ...], tuple[str, ...]]
"""(its name, its networks, its triggers)."""


def population(
    folder: Path, kinds: Iterable[str], closed: Mapping[str, tuple[str, ...]]
) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """(kind, file, facts) of the models of these kinds that are not `closed`."""
    for kind in kinds:
        if kind in closed.get("kinds", ()):
            continue
        for path in sorted((folder / kind).glob("*.json")):
            facts = json.loads(path.read_text())
            if facts["sort"] not in closed.get("attacks", ()):
                yield kind, path, facts


def calibrate(told: dict[str, Any], recipes: Mapping[str, str]) -> None:
    """Writes the package's calibration: the scores of all clean models of each kind.

    `recipes` says of each kind how its models were made.
    """
    kinds = []
    for kind, recipe in recipes.items():
        rows = clean_of(told, kind)
        if not rows:
            continue
        hard = sum(row["facts"]["hard"] is not None for row in rows)
        scores: dict[str, Any] = {}
        for row in rows:
            for name, found in row["scanners"].items():
                scores.setdefault(name, {"declaration": found["declaration"], "scores": []})
                scores[name]["scores"].append(round(found["score"], 6))
        kinds.append(
            {
                **rows[0]["spec"],
                "models": f"{len(rows)} small networks {recipe}, {hard} of them hard on purpose",
                "scanners": {
                    name: {**found, "scores": sorted(found["scores"])}
                    for name, found in sorted(scores.items())
                    if len(found["scores"]) >= (FEW if compares(name) else FEWEST_MODELS)
                },
            }
        )
    made = calibration.Calibration.model_validate({"format": 1, "kinds": kinds})
    write_whole(SHIPPED, (json.dumps(made.model_dump(mode="json"), indent=1) + "\n").encode())


def compares(name: str) -> bool:
    """Whether the scanner `name` compares the classes of a model with each other."""
    scanner = find("scanner", name)
    return issubclass(scanner, Scanner) and scanner.compares_classes


def of_kind(told: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """The rows of a kind."""
    return [row for name, row in told.items() if name.partition("/")[0] == kind]


def tell(told: dict[str, Any], halves: Iterable[Half]) -> None:
    """Prints a table for each half: AUC, detections at the threshold, the right class, seconds."""
    for half, kinds, attacks in halves:
        print(f"\n### {half}\n")
        print(
            "| network | scanner | AUC | found | right class | weak ones found "
            "| held-out false alarms | seconds |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for kind in kinds:
            rows = of_kind(told, kind)
            for name in sorted({name for row in rows for name in row["scanners"]}):
                line(kind, name, rows, attacks)


def clean_of(told: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """The clean models of a kind, in the order in which they were planted."""
    rows = [row for row in of_kind(told, kind) if row["facts"]["sort"] == "clean"]
    return sorted(rows, key=lambda row: row["facts"]["number"])


def line(kind: str, name: str, rows: list[dict[str, Any]], attacks: tuple[str, ...]) -> None:
    """One row of the table."""

    def score(row: dict[str, Any]) -> float:
        return float(row["scanners"][name]["score"])

    seen = [row for row in rows if name in row["scanners"]]
    clean = clean_of({f"{kind}/{i}": row for i, row in enumerate(seen)}, kind)
    every = [row for row in seen if row["facts"]["sort"] in attacks]
    bad = [row for row in every if row["facts"]["asr"] >= WORKS]
    weak = [row for row in every if row["facts"]["asr"] < WORKS]
    if not every or len(clean) < CALIBRATING:
        return
    wins = sum((score(b) > score(c)) + 0.5 * (score(b) == score(c)) for b in bad for c in clean)
    threshold = standing(0, [score(row) for row in clean]).threshold
    hit = [row for row in bad if score(row) > threshold]
    right = [row for row in hit if _right(row, name)]
    tried = standing(0, [score(row) for row in clean[:CALIBRATING]]).threshold
    apart = clean[CALIBRATING:]
    alarms = Rate(sum(score(row) > tried for row in apart), len(apart))
    seconds = sorted(row["scanners"][name]["seconds"] for row in seen)
    cells = (
        kind,
        f"`{name}`",
        f"{wins / len(bad) / len(clean):.2f}" if bad else "–",
        _shown(Rate(len(hit), len(bad))),
        f"{len(right)} of {len(hit)}",
        f"{sum(score(row) > threshold for row in weak)} of {len(weak)}",
        _shown(alarms),
        f"{seconds[len(seconds) // 2]:.1f}",
    )
    print(f"| {' | '.join(cells)} |")


def _right(row: dict[str, Any], name: str) -> bool:
    return bool(row["scanners"][name]["suspect"] == row["facts"]["attack"]["target"])


def _shown(rate: Rate) -> str:
    low, high = rate.interval()
    return f"{rate.hits} of {rate.total} ({100 * low:.0f} to {100 * high:.0f} %)"
