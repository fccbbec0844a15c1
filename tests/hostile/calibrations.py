"""Calibration files, as a stranger might have changed them, which `scan` compares scores with."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .inputs import DIGITS, EITHER, READ, REFUSED, TEXTS, Input, sparse, written
from .samples import small_model

SCAN = ["scan", "m.safetensors", "--scanner", "last_layer", "--calibration", "a.json"]
SCAN += ["--fail-on", "never", "--out", "out/scan"]
OPTIONS = {"width": 1, "hidden": 1, "in_channels": 3, "side": 16}
NESTED = "[" * 100_000 + "]" * 100_000
STRANGE: dict[str, Any] = {
    "null": None,
    "true": True,
    "a list": [1, 2],
    "a table": {"a": 1},
    "a text": "x",
    "-1": -1,
    "10^12": 10**12,
    "half": 0.5,
    "10^400": 10**400,
    "NaN": float("nan"),
    "infinity": float("inf"),
}


def good() -> dict[str, Any]:
    """A calibration for `small_model`."""
    scores = {"declaration": {"name": "last_layer", "per_class": 20}, "scores": [1.0] * 19}
    kind = {
        **{"arch": "badnet_cnn", "options": OPTIONS, "classes": 3, "models": "small ones"},
        "scanners": {"last_layer": scores},
    }
    return {"format": 1, "kinds": [kind]}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands; of a list the first entry alone."""
    if path:
        yield path
    inside = value.items() if isinstance(value, dict) else ()
    inside = enumerate(value[:1]) if isinstance(value, list) else inside
    for key, below in inside:
        yield from places(below, (*path, key))


def changed(path: tuple[Any, ...], value: Any) -> str:
    """The good one with another `value` at `path`."""
    told = good()
    place: Any = told
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(told)


def text(told: str | bytes) -> Callable[[Path], list[str]]:
    """Makes a model and a calibration file that says this."""

    def make(folder: Path) -> list[str]:
        small_model(folder / "m.safetensors")
        written(folder / "a.json", told)
        return SCAN

    return make


def special(make_file: Callable[[Path], object]) -> Callable[[Path], list[str]]:
    """Makes a model, and the calibration by `make_file`."""

    def make(folder: Path) -> list[str]:
        small_model(folder / "m.safetensors")
        make_file(folder / "a.json")
        return SCAN

    return make


def inputs() -> Iterator[Input]:
    """Calibrations that are none, that lie, and that hold texts which do something."""
    whole = json.dumps(good())
    yield Input("calibration", "a good one", text(whole), READ)
    for path in places(good()):
        for name, value in STRANGE.items():
            yield Input("calibration", f"{name} at {path}", text(changed(path, value)), EITHER)
    for name, value in TEXTS.items():
        short = value[:20_000]
        for where, path in {
            "the models": ("kinds", 0, "models"),
            "the architecture": ("kinds", 0, "arch"),
            "an unknown key": ("kinds", 0, short),
        }.items():
            told = changed(path, short).encode("utf-8", "surrogatepass")
            yield Input("calibration", f"{name} as {where}", text(told), EITHER)
    for name, told in {
        "nothing": "",
        "no JSON": "x",
        "a list": "[]",
        "deep": NESTED,
        "a deep declaration": whole.replace('"last_layer", "per', f'{NESTED}, "per'),
        "a number of 5,000 digits": whole.replace("19", DIGITS).replace("1.0", DIGITS),
        "half of it": whole[: len(whole) // 2],
        "one key twice": whole[:-1] + ', "format": 2}',
    }.items():
        yield Input("calibration", name, text(told), REFUSED)
    for name, make_file in {
        "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
        "10 GB of nothing": lambda path: sparse(path, 10**10, whole.encode()),
        "a pipe": os.mkfifo,
        "a folder": os.mkdir,
        "a link to itself": lambda path: path.symlink_to(path.name),
    }.items():
        yield Input("calibration", name, special(make_file), REFUSED)
