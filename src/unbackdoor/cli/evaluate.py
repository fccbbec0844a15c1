"""evaluate: how good a model is, and how backdoored."""

from __future__ import annotations

from typing import Annotated

import typer

from ..core.errors import ParameterError
from . import options as o
from .console import Console


def evaluate(
    context: typer.Context,
    model: o.Checkpoint,
    test: o.Test = None,
    triggered: o.Triggered = None,
    target: o.Target = None,
    max_asr: Annotated[
        float | None,
        typer.Option(min=0, max=1, show_default=False, help="exit 1 if the ASR is above it"),
    ] = None,
    min_acc: Annotated[
        float | None,
        typer.Option(min=0, max=1, show_default=False, help="exit 1 if the ACC is below it"),
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
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    device: o.OnDevice = o.Device.auto,
    seed: o.Seed = 0,
    precision: o.InPrecision = o.Precision.auto,
) -> int:
    """Measure the accuracy of MODEL, and its attack success and robust accuracy.

    ACC is counted on --test; ASR and RA on --triggered, without the images that belong to the
    goal anyway. Measurements are always in float32.
    """
    with Console(as_json=as_json, quiet=quiet, verbose=verbose) as console:
        from .. import api
        from ..checkpoints import hub
        from ..core import record
        from ..core.run import Run, pick_device
        from . import inputs, scores

        if not test and not triggered:
            raise ParameterError("give --test, or --triggered and --target, or all three")
        if min_acc is not None and not test:
            raise ParameterError("--min-acc needs test images (--test SRC)")
        inputs.Bounds(max_asr).check(triggered)
        inputs.check_target(triggered, target)
        run = Run(seed, pick_device(device), precision.value, console.progress)
        heading = record.heading("evaluate", context.obj)

        victim = inputs.Described(
            model, arch, classes, mean, std, model_option, size, weights
        ).load()
        sources = inputs.Sources(victim, run, download, columns)
        judged = sources.images(test) if test else None
        stamped = sources.triggered(triggered, target, like=judged)

        score = api.evaluate(victim, judged, stamped, run=run)
        told = {
            **heading,
            "model": record.of_model(victim, victim.spec, hub.weights_file(model)),
            "test": record.of_images(test, judged) if test and judged else None,
            "triggered": record.of_triggered(triggered, stamped),
            "before": record.of_score(score),
            **record.of_run(run),
            "precision": "float32",
            "warnings": console.warned,
        }
        console.result(told, scores.shown(measured=score))
        missed = inputs.Bounds(max_asr).missed(score, score)
        if min_acc is not None and score.acc and score.acc.value < min_acc:
            missed.append(f"ACC is {score.acc.value:.4f}, below the bound {min_acc:g}")
        for line in missed:
            console.complain(line)
        return 1 if missed else 0
