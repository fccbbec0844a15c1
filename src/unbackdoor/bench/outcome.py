"""The result of a piece of work: what it found, or how it failed, and what made it."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ..core import record
from ..core.errors import OutputError, UnbackdoorWarning
from ..core.measure import Rate, Score
from ..core.run import Run
from ..core.version import __version__
from .cell import Cell
from .store import FORMAT, Record

SOURCE = Path(__file__).parents[2]


class VictimFailedError(Exception):
    """A cell that cannot be worked on, because its victim could not be planted."""


class ControlFailedError(Exception):
    """A control that cannot be tried, because what it follows failed or pruned nothing."""


class WorkerDiedError(Exception):
    """A cell whose process was ended from outside, each time it was tried."""


def heading(cell: Cell, victim: Record | None) -> Record:
    """What the result of a cell starts with; `victim` is its victim's, where it is there."""
    kind = cell.kind.removesuffix("s")
    return {
        "kind": kind,
        "id": cell.id,
        "victim": cell.victim.id,
        kind: cell.declaration(),
        "before": (victim or {}).get("score"),
    }


def of(head: Record, work: Callable[[], Record], run: Run) -> Record:
    """The result of `work`, or how it failed, and what made it."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    warned: list[str] = []
    try:
        with warnings_into(warned):
            found = {"status": "done", **work()}
    except OutputError:  # a full disk is no result of a method
        raise
    except Exception as error:  # noqa: BLE001  whatever a method breaks on is its result
        found = {
            "status": "failed",
            "error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:500],
            "traceback": traceback.format_exc().replace(f"{SOURCE}/", ""),
            "flags": [],
        }
    return {
        "format": FORMAT,
        **head,
        "spent": {},
        **found,
        "warnings": warned,
        "unbackdoor": __version__,
        "started": started,
        "threads": torch.get_num_threads(),
        **record.of_run(run),
    }


def pruned(told: Record) -> list[Record]:
    """The layers of a cell's record with what was pruned of each, even if it is back now."""
    found: list[Record] = told["pruned"] if "pruned" in told else told["layers"]
    return found


@contextmanager
def warnings_into(warned: list[str]) -> Iterator[None]:
    """What methods warn of inside goes to `warned`, each text once; other warnings go on."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UnbackdoorWarning)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *more: Any, **named: Any) -> None:
            if not issubclass(category, UnbackdoorWarning):
                others(message, category, *more, **named)
            elif (text := " ".join(str(message).split())) not in warned:
                warned.append(text)

        warnings.showwarning = show
        yield


def score(victim: Record) -> Score:
    """The score that a victim's record holds."""
    rates = victim["score"].items()
    return Score(**{name: rate and Rate(rate["hits"], rate["total"]) for name, rate in rates})
