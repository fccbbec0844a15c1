"""convert: any checkpoint that can be read, as safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import OutputError
from . import options as o
from .console import Console


def convert(
    context: typer.Context,
    model: o.Checkpoint,
    out: Annotated[
        Path, typer.Argument(metavar="OUT.safetensors", help="file to write", show_default=False)
    ],
    arch: o.Arch = None,
    classes: o.Classes = None,
    mean: o.Mean = None,
    std: o.Std = None,
    model_option: o.ModelOptions = None,
    size: o.Size = None,
    weights: o.Weights = None,
    force: Annotated[bool, typer.Option("--force", help="replace OUT.safetensors")] = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Write MODEL as safetensors, with its architecture, classes, mean and std in the header.

    Never runs code from MODEL.
    """
    with Console(as_json=as_json, quiet=quiet, verbose=verbose) as console:
        if out.suffix != ".safetensors":
            raise OutputError(f"the name of the file to write must end in .safetensors, got {out}")
        if out.exists() and not force:
            raise OutputError(f"{out} is there already; --force replaces it")
        from ..checkpoints import checkpoint, hub
        from ..core import record
        from ..core.files import alone, sha256
        from . import inputs

        console.hold(alone(out))
        loaded = inputs.Described(
            model, arch, classes, mean, std, model_option, size, weights
        ).load()
        told = {
            **record.heading("convert", context.obj),
            "model": record.of_model(loaded, loaded.spec, hub.weights_file(model)),
        }
        checkpoint.save(loaded, out, told)
        told["output"] = {"file": out.name, "sha256": sha256(out)}
        told["warnings"] = console.warned
        console.result(told, f"{out}: {loaded.spec.arch}, {len(loaded.spec.classes)} classes")
        return 0
