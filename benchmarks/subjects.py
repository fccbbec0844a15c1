"""What a repair is judged on: a model, the clean images it may use, and how it is measured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from victims import (
    DATA,
    ROOT,
    VICTIMS,
    Victim,
    declared,
    images,
    model_of,
    ready,
    took,
    triggered_of,
)

from unbackdoor import load_images, load_model, load_triggered
from unbackdoor.core.images import Images, Triggered
from unbackdoor.models import Normalized

ZOO = ROOT.parent / "shared" / "zoo"
OUTSIDE = ("cifar10-blended-w32", "cifar10-badnets-w32-short")
"""Victims that were trained outside this project."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A victim or a clean model with all that judges a repair of it.

    `originals` are the images of `triggered` before they were stamped, where they are known: only
    the oracle that sees the trigger asks for them.
    """

    name: str
    model: Normalized
    clean: Images
    test: Images
    triggered: Triggered | None
    originals: Images | None


def names() -> list[str]:
    """The subjects that are there to be used."""
    own = [victim.name for victim in VICTIMS if ready(victim) and took(victim)]
    return own + [name for name in OUTSIDE if (ZOO / name).exists()]


def victim_named(name: str) -> Victim | None:
    """This project's victim of that name; None for one from outside."""
    return next((victim for victim in VICTIMS if victim.name == name), None)


@cache
def subject(name: str) -> Subject:
    """The subject of that name, read once."""
    victim = victim_named(name)
    if victim is None:
        return _outside(name)
    test, triggered, originals = images(victim.data, "test"), None, None
    if victim.attack != "clean":
        triggered, originals = triggered_of(victim), declared(victim).aimed(test).images
    clean = images(victim.data, "clean")
    return Subject(name, model_of(victim), clean, test, triggered, originals)


def clean_subject(name: str) -> str:
    """The name of the clean model of the same data and width; it may not be there."""
    victim = victim_named(name)
    data = victim.data if victim else name.split("-")[0]
    width = victim.width if victim else _width(ZOO / name)
    return Victim("clean", data=data, width=width).name


def _width(folder: Path) -> int:
    return int(json.loads((folder / "meta.json").read_text(encoding="utf-8"))["width"])


def _outside(name: str) -> Subject:
    shape = {"size": (32, 32), "channels": 3}
    told = json.loads((ZOO / name / "meta.json").read_text(encoding="utf-8"))
    return Subject(
        name,
        load_model(ZOO / name / "model.safetensors"),
        load_images(ZOO / "clean.parquet", **shape),
        load_images(DATA / "cifar10-test.parquet", **shape),
        load_triggered(ZOO / name / "triggered_test.parquet", int(told["target"]), **shape),
        None,
    )
