"""scan: does a model show signs of a backdoor, and for which class?"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from . import options as o
from .console import Console

CODES = {"no sign of a backdoor found": 0, "suspicious": 1, "not judged": 3}
"""Exit codes by outcome."""


class FailOn(StrEnum):
    """Which outcomes have an exit code other than 0."""

    suspicious = "suspicious"
    not_judged = "not-judged"
    never = "never"


def scan(
    context: typer.Context,
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="MODEL", show_default=False, help="a model file, or a folder; see inspect"
        ),
    ] = None,
    clean: Annotated[
        str | None,
        typer.Option(
            "--clean",
            metavar="SRC",
            show_default=False,
            rich_help_panel=o.IMAGES,
            help=f"clean images, 20 of each class are enough: {o.SOURCE}",
        ),
    ] = None,
    scanner: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            show_default=False,
            help="the scanner; default: latent for a kind that it is calibrated for, else targeted",
        ),
    ] = None,
    parameters: o.Parameters = None,
    budget: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            metavar="MINUTES",
            show_default=False,
            help="stop a scanner after so long; it is then not judged",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="compare with the clean models of this file, written by --calibrate",
        ),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            show_default=False,
            help="in place of MODEL: your own clean models, to write a calibration of into --out",
        ),
    ] = None,
    fail_on: Annotated[
        FailOn,
        typer.Option(help="suspicious: exit 0 if not judged; never: exit 0 whatever is found"),
    ] = FailOn.not_judged,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            show_default=False,
            rich_help_panel=o.OUTPUT,
            help="folder to write; must be new or empty",
        ),
    ] = None,
    arch: o.Arch = None,
    classes: o.Classes = None,
    mean: o.Mean = None,
    std: o.Std = None,
    model_option: o.ModelOptions = None,
    size: o.Size = None,
    weights: o.Weights = None,
    columns: o.Columns = None,
    download: o.Download = False,
    force: o.Force = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    device: o.OnDevice = o.Device.auto,
    seed: o.Seed = 0,
    precision: o.InPrecision = o.Precision.auto,
) -> int:
    """Tell whether MODEL shows signs of a backdoor, and for which class.

    With --out writes record.json, report.html, scan.sarif and model.cdx.json into DIR, all or
    none. A scan never promises that a model is clean. Exit codes: 0 nothing found, 1 suspicious,
    2 bad input, 3 not judged.
    """
    with Console(as_json=as_json, quiet=quiet, verbose=verbose) as console:
        from ..core.errors import ParameterError
        from ..core.files import alone
        from ..core.run import Run, pick_device
        from ..scanners.base import calibration as calibrations
        from ..scanners.base.verdict import usual
        from . import inputs, output, scanning
        from .calibrating import calibrated

        given = o.pairs("-p", parameters)
        asked = scanning.scanners(scanner or scanning.FIRST, given) if scanner or calibrate else []
        if (model is None) == (calibrate is None):
            raise ParameterError("give one of MODEL and --calibrate DIR")
        if calibrate and (not out or not clean):
            raise ParameterError("--calibrate needs --clean SRC and --out DIR")
        if calibrate and (budget or calibration or fail_on is not FailOn.not_judged):
            raise ParameterError("--calibrate takes no --budget, --calibration and --fail-on")
        known = calibrations.read(calibration) if calibration else calibrations.shipped()
        if out:
            console.hold(alone(out))
            output.check(out, force=force)
        run = Run(seed, pick_device(device), precision.value, console.progress, part=console.part)

        def described(path: Path) -> inputs.Described:
            return inputs.Described(path, arch, classes, mean, std, model_option, size, weights)

        if calibrate:
            assert out and clean
            sources = (clean, download, columns)
            return calibrated(calibrate, described, asked, sources, out, run, console, context.obj)
        assert model
        case = scanning.Case(model, described(model).load(), clean, download, columns)
        asked = asked or scanning.scanners(usual(case.model, known), given)
        full, results = case.scanned(asked, run, known, budget, console, context.obj)
        if out:
            scanning.write(out, full, scanning.located(model))
            console.say(f"written to {out}: {', '.join(sorted(p.name for p in out.iterdir()))}")
        console.result(full, scanning.shown(scanning.deciding(results)))
        outcome = full["outcome"]
        if fail_on is FailOn.never or (fail_on is FailOn.suspicious and outcome == "not judged"):
            return 0
        return CODES[outcome]
