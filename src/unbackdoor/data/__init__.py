"""Sources of images. One file is one kind of source; a leading underscore says that it is none.

A source's file says in `NAMES` what names it answers to, or in `reads(path)` which files and
folders; in `SPLITS` the parts that can be asked for, as in `digits:test`; and `read` reads it.
"""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..core.errors import (
    ImagesError,
    ParameterError,
    UnbackdoorWarning,
    UnknownNameError,
)
from ..core.foreign import told_as
from ..core.images import Images, Triggered
from ._labels import are_numbers, key, matched
from ._source import Raw, Source

Goal = int | Literal["all-to-all"]

OWN_GOALS = {".parquet": ("image", "goal"), ".npz": ("images", "goals")}
"""What our own files call triggered images and the classes they should go to."""


def open_images(
    source: str | Path,
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    classes: Sequence[str] | None = None,
    download: bool = False,
    columns: tuple[str, str] | None = None,
) -> Images:
    """The images of `source`: a file, a folder, or a name such as `digits:test` or `cifar10`.

    `size` (height, width) and `channels` (1 or 3) are what the model takes; images of another size
    are resized, and an `UnbackdoorWarning` says so. `classes` are the model's: labels are matched
    by name where the source uses the same names, else by number, if there are as many. `columns`
    names the images and the labels in a parquet or `.npz` file that calls them otherwise. Only with
    `download` is anything fetched. Raises `ImagesError` for what cannot be read or does not fit,
    and `UnknownNameError` for a name that is no source.
    """
    with told_as(ImagesError, f"{source} cannot be read"):
        found, raw = _read(source, download, columns)
        if raw.goals is not None:
            raise ImagesError(f"{found} holds triggered images: clean ones are wanted here")
        return _images(found, raw, size, channels, classes)


def open_triggered(
    source: str | Path,
    target: Goal | str | None = None,
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    classes: Sequence[str] | None = None,
    download: bool = False,
    columns: tuple[str, str] | None = None,
) -> Triggered:
    """The triggered images of `source`, labelled with their true classes, and the attacker's goals.

    `target` is the class that triggered images should go to, or `all-to-all` (y to y + 1). A
    BackdoorBench result holds its own; so do files that `attack` and `poison` write, where no
    target is given, and an `UnbackdoorWarning` says so. Images whose true class is their goal are
    left out. The rest is as in `open_images`; raises `ParameterError` for a target that is no
    class.
    """
    with told_as(ImagesError, f"{source} cannot be read"):
        found, raw = _read(source, download, columns)
        images = _images(found, raw, size, channels, classes)
        goals = raw.goals
        if goals is None and target is None:
            goals = _own_goals(found, raw, classes)
    return _counted(found, images, _goals(found, images, target) if goals is None else goals)


def _own_goals(source: Source, raw: Raw, classes: Sequence[str] | None) -> Tensor | None:
    """The goals that stand beside the labels in a parquet or `.npz` file; None if none do."""
    columns = OWN_GOALS.get(source.path.suffix)
    if columns is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is said of these images was said
            beside = _read(str(source), False, columns)[1]
            goals = matched(str(source), replace(raw, labels=beside.labels), classes)[0]
    except ImagesError:
        return None
    if not beside.numbered:  # names would be numbered in an order of their own
        return None
    warnings.warn(
        f"{source}: no target is given, so images should go where its {columns[1]!r} says",
        UnbackdoorWarning,
        stacklevel=4,
    )
    return goals


def with_goals(images: Images, target: Goal | str | None) -> Triggered:
    """`images` as triggered ones with the attacker's goal, as in `open_triggered`."""
    return _counted("the data", images, _goals("the data", images, target))


def fitted(
    found: Triggered, *, size: tuple[int, int] | None, channels: int, classes: Sequence[str]
) -> Triggered:
    """`found` as `of_objects` makes images fit; goals are labels, too."""
    images = of_objects(found.images, size=size, channels=channels, classes=classes)
    goals = Raw(found.images.pixels, found.goals, found.images.classes)
    goals = replace(goals, numbered=are_numbers([key(name) for name in goals.classes]))
    return Triggered(images, matched("the goals", goals, classes)[0])


def _counted(source: object, images: Images, goals: Tensor) -> Triggered:
    counted = Triggered(images, goals).counted()
    if not len(counted.goals):
        raise ImagesError(
            f"{source}: the true class of every triggered image is the target already"
        )
    return counted


def of_objects(
    found: Any,
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    classes: Sequence[str] | None = None,
    columns: tuple[str, str] | None = None,
) -> Images:
    """The images of a data set, a loader, arrays or a list, as in `_objects.read`, or `Images`.

    They are made to fit as those of a file are: their size, their channels, and their labels, which
    go by the names of the classes where the data set tells them and the model has the same, else by
    number. Raises `ImagesError` for what cannot be read or does not fit.
    """
    from . import _objects
    from ._pixels import pixels_of

    if isinstance(found, Images):
        raw, what = Raw(found.pixels, found.labels, found.classes), "the images"
        raw = replace(raw, numbered=are_numbers([key(name) for name in found.classes]))
    else:
        raw, what = _objects.read(found, columns), f"the {type(found).__name__}"
    labels, named = matched(what, raw, classes)
    pixels = pixels_of(what, raw.pictures, size, channels)
    return Images(pixels, labels, named, mirrored(found))


def resized(images: Images, size: tuple[int, int]) -> Images:
    """`images` in another size, without a word."""
    from ._pixels import resized as pixels

    return replace(images, pixels=pixels(images.pixels, size))


def names() -> tuple[str, ...]:
    """The sources that go by a name instead of a path."""
    return tuple(name for module in _sources() for name in getattr(module, "NAMES", ()))


def mirrored(source: object) -> bool:
    """Whether a mirrored image of `source` is of its class still.

    As far as `Images` carry that from their source, or the name of the source tells.
    """
    if isinstance(source, Images):
        return source.mirrored
    text = str(source) if isinstance(source, str | Path) else ""
    known = {name for module in _sources() for name in getattr(module, "UNMIRRORED", ())}
    return known.isdisjoint((text, text.rpartition(":")[0]))


def _sources() -> Iterator[Any]:
    for found in pkgutil.iter_modules(__path__):
        if not found.name.startswith("_"):
            yield importlib.import_module(f"{__name__}.{found.name}")


def as_text(source: str | Path, classes: Sequence[str] | None) -> Tensor | None:
    """The place int64 `[classes]` of each class of a folder if its names are sorted as text.

    Other tools number folders called 2 and 10 so; here they are numbers. None where both agree, or
    where the names of the `classes` decide.
    """
    if classes is not None and not are_numbers([key(name) for name in classes]):
        return None
    found, module = _resolved(str(source), False)
    numbers = getattr(module, "as_text", None)
    places: Tensor | None = numbers(found) if numbers else None
    return places


def warn_of_numbers(source: str | Path, classes: Sequence[str] | None) -> None:
    """Warns of a folder whose classes other tools number otherwise, as `as_text` says."""
    if as_text(source, classes) is not None:
        warnings.warn(
            f"the class folders of {source} are called by numbers, and are taken so: 2 before 10. "
            "torchvision's ImageFolder sorts them as text, 10 before 2; if the model was trained "
            "on that, give classes= in its order",
            UnbackdoorWarning,
            stacklevel=3,
        )


def _read(
    wanted: str | Path, download: bool, columns: tuple[str, str] | None
) -> tuple[Source, Raw]:
    source, module = _resolved(str(wanted), download)
    source = replace(source, columns=columns)
    parts = getattr(module, "parts", None)
    splits = parts(source.path) if parts else getattr(module, "SPLITS", ())
    if source.split is not None and source.split not in splits:
        known = f"it has {', '.join(splits)}" if splits else "it has no parts"
        raise ImagesError(f"{source.name} has no part {source.split!r}; {known}")
    raw: Raw = module.read(source)
    return source, raw


def _resolved(text: str, download: bool) -> tuple[Source, Any]:
    """The source called `text`, and the module that reads it. A name wins over a path."""
    if not text:
        raise ImagesError("no source of images was named")
    head, _, split = text.rpartition(":")
    readings = [Source(text, None, download), *([Source(head, split, download)] if head else [])]
    for source in readings:
        for module in _sources():
            if source.name in getattr(module, "NAMES", ()):
                if source.path.exists():
                    warnings.warn(
                        f"{source.name} is the name of a data set, which is meant; for the file or "
                        f"folder of that name say ./{source.name}",
                        UnbackdoorWarning,
                        stacklevel=5,
                    )
                return source, module
    for source in readings:
        if source.path.exists():
            for module in _sources():
                if hasattr(module, "reads") and module.reads(source.path):
                    return source, module
            raise ImagesError(
                f"{source.name} is no kind of image file known here: a folder of class folders, "
                ".parquet, .npz, or attack_result.pt"
            )
    if Path(text).suffix or len(Path(text).parts) > 1:
        raise ImagesError(f"no such file or folder: {text}")
    raise UnknownNameError.of("source of images", readings[-1].name, names())


def _images(
    source: Source,
    raw: Raw,
    size: tuple[int, int] | None,
    channels: int | None,
    classes: Sequence[str] | None,
) -> Images:
    from ._pixels import pixels_of

    labels, named = matched(source, raw, classes)
    pixels = pixels_of(str(source), raw.pictures, size or raw.size, channels)
    return Images(pixels, labels, named, mirrored(source.name))


def _goals(source: object, images: Images, target: Goal | str | None) -> Tensor:
    count = len(images.classes)
    if target == "all-to-all":
        return (images.labels + 1) % count
    if isinstance(target, str):
        if target not in images.classes:
            raise UnknownNameError.of("target", target, (*images.classes, "all-to-all"))
        target = images.classes.index(target)
    if not isinstance(target, int):
        raise ParameterError(
            f"{source} does not say where its triggered images should go; give a target class or "
            f"all-to-all, got {target!r}"
        )
    if not 0 <= target < count:
        raise ParameterError(f"target {target} is not one of {count} classes (0 to {count - 1})")
    return torch.full_like(images.labels, target)
