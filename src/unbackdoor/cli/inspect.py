"""inspect: what a model file is, without running anything in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.text import line as one_line
from . import options as o
from .console import Console


def inspect(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="a model file or a folder of the hub"),
    ],
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Say what FILE is: its format, its maker, its tensors, and which known networks have them.

    Nothing in FILE is run. The exit code is 2 where its weights cannot be read.
    """
    with Console(as_json=as_json, quiet=quiet, verbose=verbose) as console:
        from ..checkpoints import inspecting
        from ..core import record

        told = {
            **record.heading("inspect", context.obj),
            **inspecting.inspect(file),
            "warnings": console.warned,
        }
        console.result(told, "\n".join(one_line(line) for line in _lines(told)))
        return 2 if told["error"] else 0


def _lines(told: Mapping[str, Any]) -> Iterator[str]:
    yield f"{told['file']}: {told['format']}, {told['bytes']:,} bytes"
    yield f"sha256: {told['sha256']}"
    for key, text in {
        "made by": told["made_by"],
        "names code": ", ".join(told["globals"]) and f"{', '.join(told['globals'])} (not run)",
        "keys": ", ".join(told["keys"]),
        "error": told["error"],
    }.items():
        if text:
            yield f"{key}: {text}"
    for key, value in told["header"].items():
        yield f"says {key}: {value}"
    for note in told["notes"]:
        yield f"note: {note}"
    if told["tensors"]:
        yield from _tensors(told["tensors"], told["parameters"])
    if not told["error"] and "arch" not in told["header"]:
        yield from _networks(told["architectures"])


def _tensors(tensors: list[dict[str, Any]], numbers: int) -> Iterator[str]:
    layers: dict[str, list[str]] = {}
    for tensor in tensors:
        layer, _, name = tensor["name"].rpartition(".")
        kind = "" if tensor["dtype"] == "float32" else f" {tensor['dtype']}"
        layers.setdefault(layer, []).append(f"{name} {tensor['shape']}{kind}")
    yield f"tensors: {len(tensors)} in {len(layers)} layers, {numbers:,} numbers"
    for layer, parts in layers.items():
        yield f"  {layer}: {', '.join(parts)}"


def _networks(fits: list[dict[str, Any]]) -> Iterator[str]:
    if not fits:
        yield "fits: no known network; name your own with --arch mynet.py:Net"
    for fit in fits:
        options = "".join(f", {name} {value}" for name, value in fit["options"].items())
        other = "" if fit["same_as_first"] else " (computes something else than the first)"
        yield f"fits: {fit['arch']}, {fit['classes']} classes{options}{other}"
