"""poison: poisoned data, without a victim."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from . import options as o
from .console import Console


class Layout(StrEnum):
    """How the data are laid out."""

    folders = "folders"
    parquet = "parquet"
    backdoorbench = "backdoorbench"


def poison(
    context: typer.Context,
    data: Annotated[
        str, typer.Argument(metavar="DATA", help=f"training images: {o.SOURCE}", show_default=False)
    ],
    attack: Annotated[str, typer.Option("--attack", metavar="NAME", help="an attack; see list")],
    out: o.Out,
    layout: Annotated[
        Layout, typer.Option(help="folders of PNG files, parquet, or BackdoorBench's")
    ] = Layout.folders,
    parameters: o.Parameters = None,
    test: o.Test = None,
    arch: o.Arch = None,
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=o.MODEL,
            help="for a learned trigger: checkpoint of the network it is learned on",
            show_default=False,
        ),
    ] = None,
    model_option: o.ModelOptions = None,
    cache: o.Cache = None,
    download: o.Download = False,
    force: o.Force = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    device: o.OnDevice = o.Device.auto,
    seed: o.Seed = 0,
) -> int:
    """Poison a data set, and train nothing on it.

    Writes the poisoned training set, the clean test set, the test images with the trigger, and
    record.json, which says which images were changed. Without --test a tenth of the data is held
    out as test images. A trigger that is learned on a network needs --arch (or --model).
    """
    with Console(as_json=as_json, quiet=quiet, verbose=verbose) as console:
        from ..attacks.base import planting
        from ..attacks.base.attack import Attack
        from ..core import method, record
        from ..core.errors import ParameterError
        from ..core.files import alone
        from ..core.run import Run, pick_device
        from ..data import mirrored
        from . import exporting, keeping, output, victims

        chosen = method.build("attack", attack, o.pairs("-p", parameters), mirrored=mirrored(data))
        assert isinstance(chosen, Attack)
        victims.check_asked(chosen, test)
        chosen.check_fixed()
        learns = not chosen.closed_form()
        networked = learns and (chosen.on_network or bool(arch or model))
        if networked and not (arch or model):
            raise ParameterError(
                f"{attack} learns its trigger on a network: name it with --arch, or give --model"
            )
        if layout is not Layout.backdoorbench:
            exporting.needs(layout.value)
        elif test is None:
            raise ParameterError("BackdoorBench knows its own test set: name it with --test")
        console.hold(alone(out))
        output.check(out, force=force)
        kept = keeping.folder(cache) if learns else None
        run = Run(seed, pick_device(device), "auto", console.progress, cache=kept)
        heading = record.heading("poison", context.obj)
        network, described = None, None
        if networked:
            start = victims.Start(model, arch, None, None, None, model_option)
            start.check(chosen)
            network, train, judged = start.load(data, test, run, download=download)
            victims.check(chosen, network, train, judged)
            planting.warn_of_mirrors(chosen, train)
            described = record.of_model(network, network.spec, model)
        else:
            train, judged = victims.images(data, test, run, None, download=download)
            victims.check_images(chosen, train, judged)
        found = planting.poisoned(chosen, network, train, judged, run)
        assert found.triggered
        told: dict[str, Any] = {
            **heading,
            "attack": record.of_method(chosen),
            "files": chosen.contents(),
            "data": record.of_images(data, train),
            "test": record.of_images(test or data, judged),
            "model": described,
            "triggered": record.of_triggered(exporting.triggered_in(layout.value), found.triggered),
            "poisoned": exporting.counts(found.poisoned),
            "indices": found.poisoned.indices(victims.rows(train, judged, test, run)),
            "layout": layout.value,
            "seed": seed,
            "warnings": console.warned,
        }
        full = exporting.write_poison(out, layout.value, chosen, found, judged, told)
        console.result(full, exporting.shown(full))
        console.say(f"written to {out}: {', '.join(full['written'])}")
        return 0
