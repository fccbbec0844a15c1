"""scan --calibrate: what one's own clean models score."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..core import record
from ..core.errors import ParameterError, UnbackdoorError
from ..core.files import sha256
from ..core.images import Images
from ..core.method import Method
from ..core.recall import digest_of
from ..core.run import Run
from ..models import Normalized
from ..scanners.base import calibration
from ..scanners.base.scanner import Scanner, drawn
from ..scanners.base.verdict import FEWEST_MODELS, unfit
from . import inputs, output
from .console import Console, table

FILE, KEPT = "calibration.json", "scores.json"
ENDINGS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar", ".th")


def calibrated(
    folder: Path,
    described: Callable[[Path], inputs.Described],
    asked: Sequence[Scanner],
    sources: tuple[str, bool, str | None],
    out: Path,
    run: Run,
    console: Console,
    command: str,
) -> int:
    """Scans every model of `folder` and writes what they scored into `out`.

    What was scanned is kept beside `out` until the end: after a stop, the same command goes on.
    """
    if not folder.is_dir():
        raise ParameterError(f"{folder} is not a folder")
    paths = sorted(path for path in folder.iterdir() if path.suffix in ENDINGS)
    if not paths:
        raise ParameterError(f"{folder} holds no model files ({', '.join(ENDINGS)})")
    hashes = _hashes(paths)
    heading = record.heading("calibration", command)
    clean, download, columns = sources
    scores: dict[str, list[float]] = {scanner.name(): [] for scanner in asked}
    rows, first = [], None
    with output.begun(out) as kept:
        for path in paths:
            model = described(path).load()
            first = first or model
            if not _alike(model, first):
                raise ParameterError(f"{path} is of another kind than {paths[0]}")
            images = inputs.Sources(model, run, download, columns).images(clean)
            fields = [hashes[path], run.seed, *(scanner.declaration() for scanner in asked)]
            key = digest_of(fields, (images.pixels, images.labels))
            told = _recalled(kept / KEPT, key, asked)
            for scanner in asked:
                if scanner.name() not in told:
                    told[scanner.name()] = _score(path, model, images, scanner, run)
                scores[scanner.name()].append(told[scanner.name()])
            _keep(kept / KEPT, key, told)
            rows.append({"file": path.name, "sha256": hashes[path], "scores": told})
            console.say(f"{path.name}: {', '.join(f'{n} {s:.4g}' for n, s in told.items())}")
        assert first is not None
        named = f"{len(paths)} clean models from {folder.name}"
        by: dict[Method, list[float]] = {s: scores[s.name()] for s in asked}
        made = calibration.made(first, by, named)
        full = {**heading, "models": rows, **record.of_run(run), "warnings": console.warned}
        with output.written(out) as half:
            output.write_json(half / FILE, made.model_dump(mode="json"))
            output.write_json(half / output.RECORD, full)
    console.result(
        full, table(("scanner", "models"), [(n, str(len(s))) for n, s in scores.items()])
    )
    if len(paths) < FEWEST_MODELS:
        console.say(f"{len(paths)} models are too few to judge by: {FEWEST_MODELS} are needed")
    return 0


def _alike(model: Normalized, first: Normalized) -> bool:
    return calibration.made(model, {}, "").kinds == calibration.made(first, {}, "").kinds


def _hashes(paths: Sequence[Path]) -> dict[Path, str]:
    """The hash of each file; raises `ParameterError` for a copy, which is no other clean model."""
    found: dict[Path, str] = {}
    for path in paths:
        digest = sha256(path)
        same = next((other for other, known in found.items() if known == digest), None)
        if same:
            raise ParameterError(f"{path} is a copy of {same}: each model counts once")
        found[path] = digest
    return found


def _score(path: Path, model: Normalized, images: Images, scanner: Scanner, run: Run) -> float:
    """What `scanner` gives `model`; raises `ParameterError` where no scan would judge it."""
    used = drawn(images, scanner.per_class, run.rng("scanned"))
    reason, _ = unfit(model, used, run)
    if reason:
        raise ParameterError(f"{path}: {reason}")
    return scanner.scan(model, images, run).score


def _recalled(kept: Path, key: str, asked: Sequence[Scanner]) -> dict[str, float]:
    """What a run that was stopped found for this file, with the same images and scanners."""
    try:
        told = json.loads(kept.read_text())[key]
        return {scanner.name(): float(told[scanner.name()]) for scanner in asked}
    except (OSError, ValueError, KeyError, TypeError, UnbackdoorError):
        return {}


def _keep(kept: Path, key: str, told: dict[str, float]) -> None:
    try:
        before: dict[str, Any] = json.loads(kept.read_text())
    except (OSError, ValueError):
        before = {}
    kept.parent.mkdir(parents=True, exist_ok=True)
    output.write_json(kept, {**before, key: told})
