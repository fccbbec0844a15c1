"""attack: a backdoored model to practise on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options as o
from .console import Console


def attack(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="an attack; see list", show_default=False)
    ],
    data: o.Data,
    out: o.Out,
    arch: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=o.MODEL,
            help="architecture to train; see list. With --model only if the file names none",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=o.MODEL,
            help="checkpoint to start from, as repair reads it, instead of fresh weights",
            show_default=False,
        ),
    ] = None,
    classes: o.Classes = None,
    parameters: o.Parameters = None,
    test: o.Test = None,
    min_asr: Annotated[
        float, typer.Option(min=0, max=1, help="exit 1 if the ASR reached is below it")
    ] = 0.9,
    export: o.Export = None,
    cache: o.Cache = None,
    mean: o.Mean = None,
    std: o.Std = None,
    model_option: o.ModelOptions = None,
    download: o.Download = False,
    force: o.Force = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    device: o.OnDevice = o.Device.auto,
    seed: o.Seed = 0,
    precision: o.InPrecision = o.Precision.auto,
) -> int:
    """Train a model with a backdoor in it, to practise on.

    Writes model.safetensors, triggered_test.npz (triggered test images with their true labels) and
    record.json into DIR. Without --test a tenth of the data is held out as test images. While it
    trains, its state is kept in DIR/training: after a stop, the same command continues.
    """
    with Console(as_json=as_json, quiet=quiet, verbose=verbose) as console:
        from ..attacks.base import planting
        from ..attacks.base.attack import Attack
        from ..core import method, record
        from ..core.files import alone
        from ..core.run import Run, pick_device
        from ..data import mirrored
        from . import exporting, keeping, output, scores, victims

        chosen = method.build("attack", name, o.pairs("-p", parameters), mirrored=mirrored(data))
        assert isinstance(chosen, Attack)
        victims.check_asked(chosen, test)
        start = victims.Start(model, arch, classes, mean, std, model_option)
        start.check(chosen)
        console.hold(alone(out))
        output.check(out, force=force, spared=victims.TRAINING)
        if export:
            exporting.check(export, out, force=force)
            console.hold(alone(export))
        kept = None if chosen.closed_form() else keeping.folder(cache)
        run = Run(seed, pick_device(device), precision.value, console.progress, cache=kept)
        heading = record.heading("attack", context.obj)
        network, train, judged = start.load(data, test, run, download=download)
        victims.check(chosen, network, train, judged)

        arguments = {
            "attack": chosen.declaration(),
            "files": chosen.contents(),
            "model": record.of_model(network, network.spec, model),
            "data": record.of_images(data, train),
            "test": record.of_images(test or data, judged),
            **{key: record.of_run(run)[key] for key in ("seed", "device", "precision")},
        }
        planting.warn_of_mirrors(chosen, train)
        state = victims.training(out, arguments, force=force)
        console.say(f"planting {name} with {len(train)} images on {run.device}")
        rows = victims.rows(train, judged, test, run)
        victim = chosen.plant(network, train, run, resume=state)
        stamped = chosen.triggered(judged, victim.learned)
        measured = victims.measured(victim, judged, stamped, run)
        learned = planting.learned(chosen, victim, train, run)
        elsewhere = victims.elsewhere(chosen, victim, judged, run)
        seen = victims.seen(chosen, victim, train, judged, stamped)
        reached = measured.asr.value if measured.asr else 0.0
        met = reached >= min_asr
        planting.warn_of_weakness(learned)
        told: dict[str, Any] = {
            **heading,
            **arguments,
            "attack": record.of_method(chosen),
            "triggered": record.of_triggered(victims.TRIGGERED, stamped),
            "poisoned": exporting.poisoned(chosen, victim),
            "indices": victim.poisoned and victim.poisoned.indices(rows),
            "visibility": seen,
            "export": None,
            "before": record.of_score(measured),
            "asr_other_sources": elsewhere.as_json() if elsewhere else None,
            "success": {"min_asr": min_asr, "met": met},
            "learned": {kind: rate.as_json() for kind, rate in learned.items()},
            **record.of_run(run),
            "warnings": console.warned,
        }
        full = victims.write(out, victim, stamped, told)
        if export:
            full = exporting.write(export, victim, stamped, out, full)
        console.result(full, scores.planted(measured, learned, seen, elsewhere))
        console.say(f"written to {out}")
        if export:
            console.say(f"exported to {export}: {', '.join(full['export']['written'])}")
            if not full["poisoned"]["fixed"]:
                console.say(f"no training set to export: {full['poisoned']['why']}")
        if not met:
            console.complain(
                f"ASR is {reached:.4f}, below the bound {min_asr:g}; train for longer "
                "(-p epochs=N), or poison more images (-p rate=R)"
            )
            return 1
        return 0
