"""report: the results of a bench as pages and tables."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import OutputError
from . import options as o
from .console import Console, table

if TYPE_CHECKING:
    from ..report.results import Results


class Tracker(StrEnum):
    """Where else the numbers go."""

    tensorboard = "tensorboard"
    mlflow = "mlflow"


def report(
    results: Annotated[
        Path, typer.Argument(metavar="DIR", help="folder that bench wrote", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="SITE",
            rich_help_panel=o.OUTPUT,
            show_default=False,
            help="folder to write; DIR/site if not given",
        ),
    ] = None,
    track: Annotated[
        Tracker | None,
        typer.Option(
            "--track",
            rich_help_panel=o.OUTPUT,
            show_default=False,
            help="also to runs in SITE/tensorboard, or to the server of MLFLOW_TRACKING_URI",
        ),
    ] = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Draw a site of static pages from the results of a bench, and write its tables.

    Pages need no network and no server: open SITE/index.html. CSV, markdown and LaTeX tables lie
    in SITE/tables, and parquet where pyarrow is installed. Files of the same names are replaced.
    """
    with Console(as_json=as_json, quiet=quiet, verbose=verbose) as console:
        from ..core.files import alone
        from ..report import results as read
        from ..report import site
        from ..report.names import CLEAN

        folder = out or results / "site"
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder} is a file, not a folder")
        console.hold(alone(folder))
        found = read.read(results)
        written = site.write(found, folder)
        cells = [row for row in found.rows if row.defense != CLEAN]
        told = {
            "cells": len(cells),
            **{
                status: sum(row.status == status for row in cells)
                for status in ("done", "failed", "missing")
            },
            "scans": sum(one.count("done") for one in found.detections),
            "data": found.data,
            "site": str(folder),
            "files": written,
        }
        if track:
            told["tracked"] = _tracked(found, track, folder, results.resolve().name)
            console.say(f"{told['tracked']} results sent to {track.value}")
        keys = ("cells", "done", "failed", "missing", "scans")
        console.result(told, table(keys, [tuple(str(told[key]) for key in keys)]))
        console.say(f"see {folder / 'index.html'}")
        return 0


def _tracked(found: Results, track: Tracker, site: Path, name: str) -> int:
    from ..report import track as sending

    if track is Tracker.tensorboard:
        return sending.to_tensorboard(found.rows, site / "tensorboard")
    return sending.to_mlflow(found.rows, f"unbackdoor {name}")
