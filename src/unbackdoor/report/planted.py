"""The backdoored models of a bench, one line each: what was planted, and what was learned of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .card import escaped
from .names import CLEAN
from .rates import hundred, share
from .results import Results, Row

LEARNED = ("relabelled", "training_asr", "clean")
DASH = "\N{EN DASH}"
COLUMNS = (
    *("data", "network", "attack", "ACC", "ASR", "RA", "clean model's ASR", "clean model's RA"),
    *("learned: relabelled", "learned: triggered", "learned: clean", "PSNR", "SSIM", "flags"),
)
"""`learned` is the accuracy on the training images as they were labelled. A clean-label attack
relabels none: for it `triggered` is the ASR on training images of the other classes. The clean
model is judged on the same triggered images. PSNR is in dB, SSIM at most 1 (the measure
`visibility`)."""


def markdown(results: Results) -> str:
    """A table of all backdoored models, in percent; empty where there is none."""
    # A model has a row for each budget of its cells.
    rows = {row.id: row for row in results.rows if row.attacked and row.defense == CLEAN}
    if not rows:
        return ""
    lines = [list(COLUMNS), ["---"] * len(COLUMNS)]
    lines += [_line(row, results.victims[name]) for name, row in rows.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _line(row: Row, record: Mapping[str, Any]) -> list[str]:
    known = [share(record.get("learned"), kind) for kind in LEARNED]
    planted = row.attack + ("" if row.rate is None else f", rate {row.rate:g}")
    shares = [row.acc, row.asr, row.ra, row.limit_asr, row.limit_ra]
    shares += [found.value if found else None for found in known]
    told = [row.data, row.arch, f"{planted}, seed {row.seed}", *map(hundred, shares)]
    seen = (record.get("measures") or {}).get("visibility") or {}
    told += [_number(seen.get("psnr"), ".1f"), _number(seen.get("ssim"), ".3f")]
    return [escaped(text) for text in (*told, ", ".join(row.flags) or DASH)]


def _number(value: object, how: str) -> str:
    return format(value, how) if isinstance(value, int | float) else DASH
