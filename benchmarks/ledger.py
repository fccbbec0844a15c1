"""Rows that an earlier sitting measured: pages keep them until they are measured again.

A row names the `job` that made it, a hash of all that was asked for, and the `model` it was made
from, a hash of the weights. It is kept while the job is still the same and the model is either
not on this machine or the same bits: a page never mixes two methods, or two models, of one name.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from victims import VICTIMS, fingerprint

Row = dict[str, Any]
Key = tuple[Any, ...]


def asked(name: str, job: str) -> str:
    """What a row is the answer to: `job`, on the victim of that name as it is declared now."""
    return f"{job}/{next((victim.job for victim in VICTIMS if victim.name == name), 'outside')}"


def rows_of(path: Path) -> list[Row]:
    """The rows that a page's JSON holds; none where there is no such file."""
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return rows


def merged(path: Path, fresh: Sequence[Row], jobs: Mapping[Key, str]) -> list[Row]:
    """The `fresh` rows and those in `path` that still hold, in the order of `jobs`.

    `jobs` are those asked for now, by the values of a row's first columns. Raises `KeyError` for a
    fresh row that was not asked for.
    """
    columns = len(next(iter(jobs)))
    before = {_key(row, columns): row for row in rows_of(path)}
    held = {key: row for key, row in before.items() if key in jobs and holds(row, jobs[key])}
    for row in fresh:
        key = _key(row, columns)
        held[key] = row | {"job": jobs[key]}
    return [held[key] for key in jobs if key in held]


def keep(path: Path, rows: Sequence[Row]) -> None:
    """Writes `rows` to `path`, one a line, and tells whose rows are gone."""
    now = {(row["victim"], row["job"]) for row in rows}
    before = ((row["victim"], row.get("job")) for row in rows_of(path))
    lost = Counter(name for name, job in before if (name, job) not in now)
    for name, count in lost.items():
        print(f"{path.name}: {count} rows of {name} do not hold any more", file=sys.stderr)
    text = ",\n".join(json.dumps(row) for row in rows)
    path.write_text(f"[\n{text}\n]\n", encoding="utf-8")


def _key(row: Row, columns: int) -> Key:
    return tuple(list(row.values())[:columns])


def holds(row: Row, job: str) -> bool:
    """Whether what `row` tells was measured as it would be now."""
    here = fingerprint(row["victim"])
    return bool(row.get("job") == job and here in (None, row.get("model")))
