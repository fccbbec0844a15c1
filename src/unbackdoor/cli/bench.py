"""bench: which defense works, which scanner finds what, at what cost?"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ..core.errors import ParameterError
from . import options as o
from .console import Console, table

if TYPE_CHECKING:
    from ..bench.cell import Cell
    from ..bench.plan import Plan

ENGINE = "Engine"


class Engine(StrEnum):
    """What does the work."""

    local = "local"
    ray = "ray"


def bench(
    context: typer.Context,
    grid: Annotated[
        Path, typer.Argument(metavar="GRID.toml", help="the grid file; see docs/bench.md")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="DIR",
            rich_help_panel=o.OUTPUT,
            help="folder of the results; results that are there are kept",
            show_default=False,
        ),
    ],
    engine: Annotated[
        Engine, typer.Option("--engine", rich_help_panel=ENGINE, help="ray: many cells at once")
    ] = Engine.local,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="print what would be done, and how long it may take"),
    ] = False,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            show_default=False,
            help="only cells whose title matches; * is any text",
        ),
    ] = None,
    closed: Annotated[
        bool,
        typer.Option("--closed", help="run a grid that is marked closed, for a finished method"),
    ] = False,
    trust_code: Annotated[
        bool,
        typer.Option(
            "--trust-code", help='run code that the grid names, such as arch = "mynet.py:Net"'
        ),
    ] = False,
    retry: Annotated[bool, typer.Option("--retry", help="repeat failed cells")] = False,
    cpus: Annotated[
        int | None,
        typer.Option(
            "--cpus-per-cell",
            min=1,
            rich_help_panel=ENGINE,
            show_default=False,
            help="threads of a cell; default: all cores with local, 1 with ray",
        ),
    ] = None,
    gpus: Annotated[
        float, typer.Option("--gpus-per-cell", min=0, rich_help_panel=ENGINE, help="ray only")
    ] = 0,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            rich_help_panel=ENGINE,
            show_default=False,
            help="address of a running ray cluster that shares DIR; default: this machine",
        ),
    ] = None,
    download: o.Download = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    device: o.OnDevice = o.Device.auto,
) -> int:
    """Try every defense and scanner on every victim of a grid, and keep one result for each cell.

    After a stop, the same command continues; what has a result is not done again. Several
    runs may share DIR. `unbackdoor report DIR` shows the results.
    """
    with Console(as_json=as_json, quiet=quiet, verbose=verbose) as console:
        from ..bench import grid as grids
        from ..bench.plan import Plan
        from ..bench.run import Bench
        from ..bench.store import Store
        from ..core.run import pick_device

        if engine is Engine.local and (gpus or address):
            raise ParameterError("--gpus-per-cell and --address need --engine ray")
        if engine is Engine.local:
            pick_device(device)
        store = Store(out)
        asked = grids.read(grid)
        if asked.closed and not (closed or dry_run):
            raise ParameterError(
                f"{grid} is closed: its victims judge a method that is frozen, and each look "
                "spends them; --closed opens it"
            )
        every = grids.cells(asked, grid.parent, trust_code=trust_code)
        plan = Plan(grids.chosen(every, only), store)
        if out.exists() and not out.is_dir():
            raise ParameterError(f"{out} is a file, not a folder")
        if dry_run:
            console.result(_told(plan), _listed(plan))
            return 0
        plan.write()
        if retry:
            console.say(f"{plan.forget_failures()} failed cells are done again")
        place = Bench(out.absolute(), device.value, cpus, download)
        pending = plan.pending
        console.say(
            f"{len(plan.cells)} cells, {len(plan.cells) - len(pending)} of them done before, "
            f"on {len(plan.victims)} victims"
        )
        log = _Log(console, len(pending))
        if engine is Engine.ray:
            from ..bench.engines.ray import Share
            from ..bench.engines.ray import work as work_on_ray

            work_on_ray(place, pending, log.tell, Share(cpus or 1, gpus, address))
        else:
            from ..bench.engines import local

            local.work(place, pending, log.tell, console.progress)
        told = {**_told(plan), "ran": log.ran}
        for line in told["weak"]:
            console.complain(line)
        console.result(told, _outcome(told))
        return 1 if told["failed"] else 0


class _Log:
    """Says what became of each cell, and counts those that this run worked out."""

    def __init__(self, console: Console, pending: int) -> None:
        self.console, self.pending = console, pending
        self.ran = self.seen = 0

    def tell(self, cell: Cell, record: dict[str, Any], ours: bool) -> None:
        self.seen += 1
        self.ran += ours
        self.console.say(f"[{self.seen}/{self.pending}] {cell.title}: {_short(record)}")


def _short(record: dict[str, Any]) -> str:
    if record["status"] == "failed":
        return f"failed: {record['error']}"
    if record["kind"] == "scan":
        return f"score {record['score']:.4g}, class {record['suspect']}"
    rates = [
        f"{name.upper()} {100 * rate['value']:.1f}"
        for name, rate in record["after"].items()
        if rate
    ]
    return ", ".join([*rates, f"{record['spent']['all']:.1f} s", *record["flags"]])


def _told(plan: Plan) -> dict[str, Any]:
    """What a machine wants to know of the folder."""
    records = [plan.store.read(cell.kind, cell.id) for cell in plan.cells]
    there = [record for record in records if record]
    estimate = plan.estimate()
    weak = []
    for victim in plan.victims:
        found = plan.store.read("victims", victim.id) or {}
        asr = (found.get("score") or {}).get("asr")
        if asr and asr["value"] < victim.min_asr:
            weak.append(
                f"{victim.title} seed {victim.seed}: ASR {asr['value']:.4f} is "
                f"below {victim.min_asr:g}, so its cells prove nothing"
            )
    return {
        "cells": len(records),
        "done": len(there),
        "ran": 0,
        "failed": sum(record["status"] == "failed" for record in there),
        "victims": len(plan.victims),
        "weak": weak,
        "estimate": {"seconds": round(estimate.seconds, 1), "unknown": estimate.unknown},
    }


def _listed(plan: Plan) -> Table:
    """Each victim, and below it the cells that share it."""
    guesses, rows = plan.guesses(), []
    own: dict[str, list[Cell]] = {victim.id: [] for victim in plan.victims}
    for cell in plan.cells:
        own[cell.victim.id].append(cell)

    def add(name: str, key: str, state: str) -> None:
        guess = guesses.get(key, 0.0)
        rows.append((name, state, "unknown" if guess is None else _span(guess) if guess else "–"))

    for victim in plan.victims:
        there = plan.store.has("victims", victim.id)
        add(f"{victim.title}, seed {victim.seed}", victim.id, "planted" if there else "to plant")
        for cell in own[victim.id]:
            record = plan.store.read(cell.kind, cell.id)
            add(
                f"  {cell.method}, {cell.budget:g}",
                cell.id,
                record["status"] if record else "to do",
            )
    shown = table(("victims, cells", "state", "may take"), rows, f"{_summed(plan)}\n")
    shown.title_style = ""
    return shown


def _summed(plan: Plan) -> str:
    estimate, parts = plan.estimate(), []
    if estimate.seconds:
        parts.append(f"about {_span(estimate.seconds)}")
    if estimate.unknown:
        parts.append(f"{estimate.unknown} pieces of unknown length")
    counted = f"{len(plan.cells)} cells on {len(plan.victims)} victims, {len(plan.pending)} to do"
    return f"{counted}: {' and '.join(parts)}, one after another" if parts else counted


def _outcome(told: dict[str, Any]) -> Table:
    keys = ("cells", "done", "ran", "failed")
    return table(keys, [tuple(str(told[key]) for key in keys)])


def _span(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
