"""What every scanner says of the population: detection, false alarms, and the calibration.

    python benchmarks/scanners.py scan --population cache/population --out scores.json
    python benchmarks/scanners.py scan ... --closed    the closed half, once thresholds are frozen
    python benchmarks/scanners.py calibrate --out scores.json   the package's calibration.json
    python benchmarks/scanners.py tell --out scores.json        the tables of docs/scan.md

`scan` goes on where it stopped. Scanners get test images that nothing else was measured on.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from population import CLOSED, KINDS, OPEN, ROOT, images

from unbackdoor.checkpoints import checkpoint
from unbackdoor.core.errors import UnbackdoorError
from unbackdoor.core.files import write_whole
from unbackdoor.core.measure import Rate
from unbackdoor.core.method import build
from unbackdoor.core.run import Run
from unbackdoor.scanners.base import calibration
from unbackdoor.scanners.base.scanner import Scanner
from unbackdoor.scanners.base.verdict import FEWEST_MODELS, standing

SHIPPED = ROOT / "src" / "unbackdoor" / "scanners" / "base" / "calibration.json"
QUICK = ("last_layer", "latent", "neuron_noise", "universal")
CALIBRATING = 19
"""A threshold of so many clean models of a kind is tried on the others, to count false alarms."""

WORKS = 0.7
"""A model with a lower ASR holds no backdoor worth the name; it is counted apart."""


def main() -> None:
    """Scans, calibrates or tells."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("what", choices=("scan", "calibrate", "tell"))
    asked.add_argument("--population", type=Path, default=ROOT / "cache" / "population")
    asked.add_argument("--out", type=Path, required=True)
    asked.add_argument("--scanners", default=",".join(QUICK))
    asked.add_argument("--kinds", default=",".join(KINDS))
    asked.add_argument("--closed", action="store_true")
    given = asked.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    told: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {}
    if given.what == "scan":
        scan(given, told)
    elif given.what == "calibrate":
        calibrate(told)
    else:
        tell(told)


def scan(given: argparse.Namespace, told: dict[str, Any]) -> None:
    """Scans what is there and not yet scanned, and keeps it after each model."""
    scanners = [build("scanner", name) for name in given.scanners.split(",")]
    for kind, path, facts in population(given.population, given.kinds.split(","), given.closed):
        model = None
        for scanner in scanners:
            assert isinstance(scanner, Scanner)
            row = told.setdefault(f"{kind}/{path.stem}", {"facts": facts, "scanners": {}})
            if row["scanners"].get(scanner.name(), {}).get("declaration") == scanner.declaration():
                continue
            model = model or checkpoint.load(path.with_suffix(".safetensors"))
            row["spec"] = {
                "arch": model.spec.arch,
                "options": dict(model.spec.options),
                "classes": len(model.spec.classes),
            }
            clean = images(KINDS[kind].data)[1][slice(6000, None)]
            try:
                found = scanner.scan(model, clean, Run(0))
            except UnbackdoorError as error:
                print(path, error, file=sys.stderr)
                continue
            row["scanners"][scanner.name()] = {
                "declaration": scanner.declaration(),
                "score": found.score,
                "suspect": found.suspect,
                "seconds": round(found.notes["seconds"], 2),
            }
            write_whole(given.out, json.dumps(told, indent=0).encode())
            print(
                kind,
                path.stem,
                scanner.name(),
                f"{found.score:.3f}",
                found.suspect,
                facts.get("attack", {}).get("target"),
                facts["asr"],
                flush=True,
            )


def population(
    folder: Path, kinds: list[str], closed: bool
) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """The models of the open half, or of both."""
    for kind in kinds:
        if kind in CLOSED["kinds"] and not closed:
            continue
        for path in sorted((folder / kind).glob("*.json")):
            facts = json.loads(path.read_text())
            if closed or facts["sort"] not in CLOSED["attacks"]:
                yield kind, path, facts


def calibrate(told: dict[str, Any]) -> None:
    """Writes the package's calibration: the scores of all clean models of each kind."""
    kinds = []
    for kind in KINDS:
        rows = clean_of(told, kind)
        if len(rows) < FEWEST_MODELS:
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
                "models": f"{len(rows)} small networks fine-tuned on {KINDS[kind].images:,} "
                f"images of {KINDS[kind].data.upper()} from {KINDS[kind].starts} clean start(s), "
                f"{hard} of them hard on purpose",
                "scanners": {
                    name: {**found, "scores": sorted(found["scores"])}
                    for name, found in sorted(scores.items())
                    if len(found["scores"]) >= FEWEST_MODELS
                },
            }
        )
    made = calibration.Calibration.model_validate({"format": 1, "kinds": kinds})
    write_whole(SHIPPED, (json.dumps(made.model_dump(mode="json"), indent=1) + "\n").encode())


def of_kind(told: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """The rows of a kind."""
    return [row for name, row in told.items() if name.partition("/")[0] == kind]


def tell(told: dict[str, Any]) -> None:
    """Prints a table for each half: AUC, detections at the threshold, the right class, seconds."""
    for half, kinds, attacks in (
        ("open", OPEN["kinds"], OPEN["attacks"]),
        ("closed triggers, open networks", OPEN["kinds"], CLOSED["attacks"]),
        ("closed networks", CLOSED["kinds"], (*OPEN["attacks"], *CLOSED["attacks"])),
    ):
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


if __name__ == "__main__":
    main()
