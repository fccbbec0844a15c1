"""Rows that an earlier sitting measured: pages keep them until they are measured again.

A row names the `job` that made it, a hash of all that was asked for, and the `model` it was made
from, a hash of the weights. It is kept while the job is still the same and the model is either
not on this machine or the same bits: a page never mixes two methods, or two models, of one name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from victims import VICTIMS, ready

Row = dict[str, Any]


def rows_of(path: Path) -> list[Row]:
    """The rows that a page's JSON holds; none where there is no such file."""
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return rows


def merged(path: Path, fresh: Sequence[Row], jobs: Mapping[tuple[Any, ...], str]) -> list[Row]:
    """The `fresh` rows and those in `path` that still hold, in the order of `jobs`.

    `jobs` are those asked for now, by the values of a row's first columns.
    """
    columns = len(next(iter(jobs)))
    before = {_key(row, columns): row for row in rows_of(path)}
    held = {key: row for key, row in before.items() if key in jobs and holds(row, jobs[key])}
    held |= {_key(row, columns): row for row in fresh}
    return [held[key] for key in jobs if key in held]


def _key(row: Row, columns: int) -> tuple[Any, ...]:
    return tuple(list(row.values())[:columns])


def holds(row: Row, job: str) -> bool:
    """Whether what `row` tells was measured as it would be now."""
    here = fingerprint(row["victim"])
    return bool(row.get("job") == job and here in (None, row.get("model")))


@cache
def fingerprint(name: str) -> str | None:
    """A hash of the weights of a victim of ours; None for one that is not here, or not ours."""
    victim = next((victim for victim in VICTIMS if victim.name == name), None)
    if victim is None or not ready(victim):
        return None
    digest = hashlib.blake2b(digest_size=6)
    for key, tensor in sorted(load_file(victim.folder / "model.safetensors").items()):
        digest.update(key.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()
