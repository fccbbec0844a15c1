"""The engine of many processes and machines: Ray (extra `ray`) shares the cells out.

Cells are tasks that wait for their victims. A task whose worker died is done again; one whose
workers keep dying is a failed result. Nothing is told to anyone outside of the cluster.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from typing import Any

from ...core.errors import ParameterError, UnbackdoorError
from ..cell import Cell, Victim
from ..run import Bench
from ..store import Record
from . import PATIENCE, Tell
from .local import threads

DEATHS = 3
"""How often a task is tried again whose worker died."""


@dataclass(frozen=True)
class Share:
    """What one cell gets, and the `address` of a running cluster; None for this machine alone."""

    cpus: int = 1
    gpus: float = 0
    address: str | None = None


def work(bench: Bench, cells: Sequence[Cell], tell: Tell, share: Share) -> None:
    """Works out the `cells` on the cluster, as many at once as fit, each on its `share`.

    `bench.folder` must be the same on every machine. Raises `ParameterError` where Ray is not
    installed, its cluster cannot be reached, or no machine of it has what a cell asks for.
    """
    bench, left = replace(bench, threads=share.cpus), list(cells)
    if not left:
        return
    with _cluster(share) as ray:
        _check_fits(share, ray.nodes())
        task = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus, max_retries=DEATHS)
        plant, repair = task(_plant), task(_repair)
        while left:
            victims = {cell.victim.id: cell.victim for cell in left}
            planted = {name: plant.remote(bench, victim) for name, victim in victims.items()}
            asked = {repair.remote(bench, cell, planted[cell.victim.id]): cell for cell in left}
            left = []
            while asked:
                (done, *_), _ = ray.wait(list(asked), num_returns=1)
                cell = asked.pop(done)
                record, ours = _result(ray, done, bench, cell)
                if record is None:
                    left.append(cell)
                else:
                    tell(cell, record, ours)
            if left:  # another run is at them
                time.sleep(PATIENCE)


def _check_fits(share: Share, nodes: Sequence[dict[str, Any]]) -> None:
    """Ray would wait for ever, without a word, for a machine that is large enough."""
    have = [node["Resources"] for node in nodes if node["Alive"]]
    for kind, asked in (("CPU", share.cpus), ("GPU", share.gpus)):
        most = max((found.get(kind, 0) for found in have), default=0)
        if asked > most:
            raise ParameterError(
                f"a cell asks for {asked:g} {kind}s; the largest machine has {most:g}"
            )


def _plant(bench: Bench, victim: Victim) -> bool:
    with threads(bench.threads):
        return bench.victim(victim) is not None


def _repair(bench: Bench, cell: Cell, planted: bool) -> tuple[Record | None, bool]:
    with threads(bench.threads):
        return bench.cell(cell) if planted else (None, False)


def _result(ray: Any, done: Any, bench: Bench, cell: Cell) -> tuple[Record | None, bool]:
    try:
        found: tuple[Record | None, bool] = ray.get(done)
    except ray.exceptions.RayError as error:
        # What a victim's task ended by comes wrapped into the error of the cell that waited for it.
        cause = getattr(error, "cause", None) or error
        if isinstance(cause, UnbackdoorError):
            raise cause from None
        if isinstance(cause, (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError)):
            return bench.died(cell, f"its worker died {DEATHS + 1} times: {cause}"), True
        raise
    return found


@contextmanager
def _cluster(share: Share) -> Iterator[Any]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise ParameterError("--engine ray needs ray: pip install 'unbackdoor[ray]'") from None
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    own = {} if share.address else {"include_dashboard": False}
    try:
        ray.init(address=share.address or "local", **quiet, **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = share.address or "this machine"
        asks = "; RAY_AUTH_MODE=token, if it asks for a token" * bool(share.address)
        raise ParameterError(f"no ray cluster at {where}: {error}{asks}") from None
    # Ray tells of dead workers on stdout, some of it at the end; stdout belongs to the result.
    with redirect_stdout(sys.stderr):
        try:
            yield ray
        finally:
            ray.shutdown()
