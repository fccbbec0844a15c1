"""repair: take the backdoor out of a model and keep its accuracy."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated

import typer

from ..core.errors import UnbackdoorWarning
from . import options as o
from .console import Console


def repair(
    context: typer.Context,
    model: o.Checkpoint,
    clean: o.Clean,
    out: o.Out,
    defense: Annotated[
        str, typer.Option(metavar="NAME", help="the defense; see `unbackdoor list`")
    ] = "uat",
    parameters: o.Parameters = None,
    test: o.Test = None,
    triggered: o.Triggered = None,
    target: o.Target = None,
    max_asr: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            show_default=False,
            help="exit code 1 if the ASR after the repair is above X",
        ),
    ] = None,
    max_acc_drop: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            show_default=False,
            help="exit code 1 if ACC falls by more than X (0 to 1)",
        ),
    ] = None,
    scan: Annotated[
        bool, typer.Option("--scan", help="scan before and after, for at most ten minutes each")
    ] = False,
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
    profile: Annotated[
        bool,
        typer.Option("--profile", rich_help_panel=o.OUTPUT, help="print how long each stage took"),
    ] = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    device: o.OnDevice = o.Device.auto,
    seed: o.Seed = 0,
    precision: o.InPrecision = o.Precision.auto,
) -> int:
    """Remove the backdoor from MODEL, or try to, and keep its accuracy.

    Writes model.safetensors, record.json, report.html and model_card.md into DIR, all or none.
    Without --test a tenth of the clean images is held out from the repair to measure ACC. While
    it runs, its state is kept beside DIR: after a stop, the same command continues.
    """
    start = time.perf_counter()
    with Console(as_json=as_json, quiet=quiet, verbose=verbose) as console:
        from .. import data, evidence
        from ..checkpoints import hub
        from ..core import method, record
        from ..core.files import alone
        from ..core.images import overlap
        from ..core.run import Run, pick_device
        from ..defenses.base.defense import Defense
        from ..network.norms import keeps_statistics
        from . import inputs, output, repairing, rescanning, scores

        asked = o.pairs("-p", parameters)
        chosen = method.build("defense", defense, asked, mirrored=data.mirrored(clean))
        assert isinstance(chosen, Defense)
        bounds = inputs.Bounds(max_asr, max_acc_drop)
        bounds.check(triggered)
        inputs.check_target(triggered, target)
        console.hold(alone(out))
        output.check(out, force=force)
        run = Run(seed, pick_device(device), precision.value, console.progress, part=console.part)
        heading = record.heading("repair", context.obj)

        victim = inputs.Described(
            model, arch, classes, mean, std, model_option, size, weights
        ).load()
        sources = inputs.Sources(victim, run, download, columns)
        given = seen = sources.images(clean)
        if test:
            judged = sources.images(test, like=given)
            _warn_of_overlap(overlap(given, judged))
        else:
            judged, seen = inputs.held_out(given, run.rng("held out"))
        stamped = sources.triggered(triggered, target, like=given)
        chosen.check(victim, seen)
        evidence.warn_thin(seen, "" if test else " after a tenth was held out to measure ACC")
        if not keeps_statistics(victim):
            console.say(
                "no batch norm of the model keeps statistics, so nothing tells whether the images "
                "are like those that it was trained on"
            )

        acc_on = "test images" if test else "held-out clean images"
        case = repairing.Case(victim, seen, judged, acc_on, stamped)
        with _hint(console), output.begun(out) as folder:
            outcome = repairing.treat(case, chosen, replace(run, cache=folder), console)
            told = {
                **heading,
                "model": record.of_model(victim, victim.spec, hub.weights_file(model)),
                "clean": record.of_images(clean, given, held_out=len(given) - len(seen)),
                "test": record.of_images(test, judged) if test else None,
                "triggered": record.of_triggered(triggered, stamped),
                **repairing.told(case, chosen, outcome, run),
                "scan": rescanning.twice(victim, outcome.model, seen, run) if scan else None,
                "warnings": console.warned,
            }
            full = repairing.write(out, outcome.model, told, hub.companions(model))
        console.result(
            full, scores.shown(outcome.agreement, before=outcome.before, after=outcome.after)
        )
        if full["scan"]:
            for when, said in full["scan"]["lines"].items():
                console.say(f"scan {when} the repair: {said}")
        console.say(f"written to {out}: {', '.join(sorted(path.name for path in out.iterdir()))}")
        if profile:
            console.shown(repairing.times(run.seconds, time.perf_counter() - start))
        missed = bounds.missed(outcome.before, outcome.after)
        for line in missed:
            console.complain(line)
        return 1 if missed else 0


@contextmanager
def _hint(console: Console) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        console.say("stopped: the same command goes on after the last layer or epoch saved")
        raise


def _warn_of_overlap(count: int) -> None:
    if count:
        warnings.warn(
            f"{count} of the test images are among the clean images: ACC is too high",
            UnbackdoorWarning,
            stacklevel=2,
        )
