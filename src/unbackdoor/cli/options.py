"""The options that verbs share, and what their text means."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..core.errors import ParameterError, UnknownNameError

SOURCE = (
    "digits, a folder of class folders, .npz, parquet, cifar10, cifar100 or gtsrb "
    "(with :train or :test)"
)
MODEL, IMAGES, MACHINE, OUTPUT = "Model", "Images", "Machine", "Output"


class Precision(StrEnum):
    """The precision of training and ranking."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class Device(StrEnum):
    """Where the work is done."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


def _option(*names: str, panel: str | None = None, **more: Any) -> Any:
    return typer.Option(
        *names, rich_help_panel=panel, show_default=bool(more.pop("show", False)), **more
    )


Checkpoint = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="a model file, or a folder as transformers or timm writes it; see inspect",
        show_default=False,
    ),
]
Clean = Annotated[
    str, _option("--clean", metavar="SRC", panel=IMAGES, help=f"clean images: {SOURCE}")
]
Data = Annotated[
    str, _option("--data", metavar="SRC", panel=IMAGES, help=f"training images: {SOURCE}")
]
Test = Annotated[
    str | None,
    _option("--test", metavar="SRC", panel=IMAGES, help="clean test images, to measure ACC"),
]
Triggered = Annotated[
    str | None,
    _option(
        "--triggered",
        metavar="SRC",
        panel=IMAGES,
        help="triggered test images with their true labels, to measure ASR and RA",
    ),
]
Target = Annotated[
    str | None,
    _option(
        "--target",
        metavar="K",
        panel=IMAGES,
        help="the attacker's goal for the triggered images: a class or all-to-all",
    ),
]
Download = Annotated[
    bool, _option("--download", panel=IMAGES, help="let cifar10, cifar100 and gtsrb be downloaded")
]
Parameters = Annotated[
    list[str] | None,
    _option(
        "-p", "--parameter", metavar="KEY=VALUE", help="a parameter of the method; see describe"
    ),
]
Arch = Annotated[
    str | None,
    _option(
        "--arch",
        metavar="NAME",
        panel=MODEL,
        help="a name from `list`, or your own mynet.py:Net, if the file does not say",
    ),
]
Classes = Annotated[
    str | None,
    _option("--classes", metavar="N|A,B,...", panel=MODEL, help="how many classes, or their names"),
]
Mean = Annotated[
    str | None,
    _option("--mean", metavar="R,G,B", panel=MODEL, help="mean of each channel, pixels in [0, 1]"),
]
Std = Annotated[
    str | None,
    _option("--std", metavar="R,G,B", panel=MODEL, help="standard deviation of each channel"),
]
ModelOptions = Annotated[
    list[str] | None,
    _option(
        "--model-option", metavar="KEY=VALUE", panel=MODEL, help="an option of the architecture"
    ),
]
Size = Annotated[
    str | None,
    _option(
        "--size",
        metavar="N|HxW",
        panel=MODEL,
        help="height and width in pixels of the images the model was made for",
    ),
]
Weights = Annotated[
    str | None,
    _option(
        "--weights",
        metavar="KEY",
        panel=MODEL,
        help="which weights of a file that holds several, such as state_dict_ema",
    ),
]
Columns = Annotated[
    str | None,
    _option(
        "--columns",
        metavar="image=A,label=B",
        panel=IMAGES,
        help="names of the image and label columns in parquet or .npz files",
    ),
]
Out = Annotated[
    Path,
    _option("--out", metavar="DIR", panel=OUTPUT, help="folder to write; must be new or empty"),
]
Force = Annotated[
    bool,
    _option(
        "--force",
        panel=OUTPUT,
        help="let DIR hold files: those that this command writes are replaced, others are kept",
    ),
]
Export = Annotated[
    Path | None,
    _option(
        "--export",
        metavar="DIR",
        panel=OUTPUT,
        help="write the poisoned training set and the triggered test set there, too",
    ),
]
Cache = Annotated[
    Path | None,
    _option(
        "--cache",
        metavar="DIR",
        panel=OUTPUT,
        help="folder that keeps what an attack learns first, for the next run; "
        "by default the user's cache folder",
    ),
]
Json = Annotated[
    bool, _option("--json", panel=OUTPUT, help="print JSON on stdout, everything else on stderr")
]
Quiet = Annotated[bool, _option("--quiet", "-q", panel=OUTPUT, help="no progress, only the result")]
Verbose = Annotated[bool, _option("--verbose", "-v", panel=OUTPUT, help="print more on stderr")]
OnDevice = Annotated[
    Device, _option("--device", panel=MACHINE, show=True, help="auto: the best available")
]
Seed = Annotated[
    int, _option("--seed", min=0, panel=MACHINE, show=True, help="seed of all random draws")
]
InPrecision = Annotated[
    Precision,
    _option(
        "--precision",
        panel=MACHINE,
        show=True,
        help="of training and ranking; auto: bf16 where the device has units for it",
    ),
]


def pairs(option: str, given: Sequence[str] | None) -> dict[str, str]:
    """`key=value` texts as a dict; raises `ParameterError` for text without `=` or a key twice."""
    found: dict[str, str] = {}
    for text in given or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ParameterError(f"{option} wants KEY=VALUE, got {text!r}")
        if key in found:
            raise ParameterError(f"{option} {key} is given twice")
        found[key] = value
    return found


def values(option: str, given: Sequence[str] | None) -> dict[str, Any]:
    """The same, each value parsed as JSON where it is JSON."""
    return {key: _parsed(value) for key, value in pairs(option, given).items()}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def class_names(text: str | None) -> int | tuple[str, ...] | None:
    """A count of classes, or their names."""
    if text is None:
        return None
    if text.isdecimal():
        if not int(text):
            raise ParameterError("--classes must be at least 1")
        return int(text)
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise ParameterError(f"--classes wants a count or different names, got {text!r}")
    return names


def size(text: str | None) -> tuple[int, int] | None:
    """A height and a width, from `N` or `HxW`."""
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise ParameterError(f"--size wants N or HEIGHTxWIDTH in pixels, got {text!r}")
    return int(sides[0]), int(sides[-1])


def columns(text: str | None) -> tuple[str, str] | None:
    """The names of the images and of the labels, from `image=A,label=B`."""
    if text is None:
        return None
    found = pairs("--columns", text.split(","))
    if found.keys() != {"image", "label"}:
        raise ParameterError(f"--columns wants image=A,label=B, got {text!r}")
    return found["image"], found["label"]


def numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """Numbers with commas between them."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ParameterError(
            f"{option} wants numbers with commas between them, got {text!r}"
        ) from None


def goal(text: str | None, classes: Sequence[str]) -> int | Literal["all-to-all"] | None:
    """A `--target` as the index of a class, given by number or name, or `all-to-all`."""
    if text is None:
        return None
    if text == "all-to-all":
        return "all-to-all"
    if text in classes:
        # A name wins over a number; where both could be meant, nobody should guess.
        place = list(classes).index(text)
        if text.isdecimal() and place != int(text) < len(classes):
            raise ParameterError(
                f"target {text} is the name of class {place}, and the number of the class "
                f"{classes[int(text)]!r}; give the names other than numbers (--classes)"
            )
        return place
    if text.isdecimal():
        if int(text) >= len(classes):
            raise ParameterError(
                f"target {text} is not one of {len(classes)} classes (0 to {len(classes) - 1})"
            )
        return int(text)
    raise UnknownNameError.of("target", text, (*classes, "all-to-all"))
