"""Images for a model, read as it reads them: its own answers on clean ones are evidence."""

from __future__ import annotations

import math
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import data
from .core.errors import ImagesError, ParameterError, UnbackdoorWarning
from .core.images import Images, to_float
from .core.measure import Rate, check, matches, near_chance, predictions
from .core.modules import copied
from .core.run import Run
from .models import Normalized
from .network.norms import strangeness

SAMPLE = 500
"""So many images tell near chance from a model that can read them."""

FEWEST = 50
"""Of fewer images nearly all must be told wrongly, and they tell nothing of batch norms."""

SIDES = (28, 32, 40, 64, 96, 128, 160, 224, 256)
"""Sides of images that networks are made for; tried where the size is a guess and looks wrong."""


STRANGE = (0.35, 1.1)
"""Distances from the statistics of batch norms that tell of other images, or of a wrong
normalisation. On images like those of the training 0.04 to 0.15 and 0.1 to 0.5 were seen in five
networks on CIFAR-10; blurred by 1.5 pixels 0.2 to 0.3 and 0.7 to 1.4; noise 0.4 and more."""

SEEN = 100
"""So many images tell how far the statistics of batch norms are off."""

FEW = 20
"""Fewer clean images of a class are thin evidence of it."""


def taken(model: nn.Module) -> dict[str, Any]:
    """What `model` tells of the images it takes: their size, their channels, their classes."""
    if not isinstance(model, Normalized):
        return {}
    return {"size": model.spec.size, "channels": model.channels, "classes": model.spec.classes}


def blank(model: nn.Module) -> Images:
    """Two grey images such as `model` takes, for what needs no image but its size.

    Raises `ParameterError` where the model does not tell a size.
    """
    if not isinstance(model, Normalized) or model.spec.size is None:
        raise ParameterError("without clean images nobody says how large images are (--size)")
    pixels = torch.full((2, model.channels, *model.spec.size), 128, dtype=torch.uint8)
    return Images(pixels, torch.zeros(2, dtype=torch.int64), model.spec.classes)


def fitting(
    model: nn.Module,
    source: Any,
    *,
    like: Images | None = None,
    download: bool = False,
    columns: tuple[str, str] | None = None,
) -> tuple[Images, bool]:
    """The images of `source` as `model` takes them, and whether their size is a guess.

    `source` is a name or a path, or a data set as `data.of_objects` takes it. Where the model does
    not tell its size, it is that of `like`, or the most common one of the source: a guess, which is
    said. Raises `ImagesError` for what cannot be read or does not fit.
    """
    wanted = {**taken(model), "columns": columns}
    told = wanted.get("size") is not None
    if not told and like is not None:
        wanted["size"] = like.shape[1:]
    named = isinstance(source, str | Path)
    found = (
        data.open_images(source, **wanted, download=download)
        if named
        else data.of_objects(source, **wanted)
    )
    if not len(found):
        raise ImagesError(f"{source} holds no images" if named else "there are no images")
    check(model, found)
    guessed = named and not told and like is None
    if guessed:
        height, width = found.shape[1:]
        warnings.warn(
            f"the model does not say for what size of images it was made; {height}x{width}, the "
            f"most common one in {source}, is a guess (size)",
            UnbackdoorWarning,
            stacklevel=3,
        )
    return found, guessed


def clean_images(
    model: nn.Module,
    source: Any,
    run: Run,
    *,
    like: Images | None = None,
    download: bool = False,
    columns: tuple[str, str] | None = None,
) -> Images:
    """As `fitting`, with the labels that the model agrees with; what looks wrong is said."""
    found, guessed = fitting(model, source, like=like, download=download, columns=columns)
    named = isinstance(source, str | Path)
    other = data.as_text(source, taken(model).get("classes")) if named else None
    called = str(source) if named else "the clean images"
    return read_rightly(model, found, called, run, as_text=other, guessed=guessed)


def read_rightly(
    model: nn.Module,
    images: Images,
    source: str,
    run: Run,
    *,
    as_text: Tensor | None = None,
    guessed: bool = False,
) -> Images:
    """`images` with the labels that the model agrees with, where two readings are possible.

    `as_text` is the other reading of class folders with numbers for names, if there is one (see
    `data.as_text`). Warns of two readings, of a model near chance on its clean images, and of
    images unlike those it was trained on. Raises `ImagesError` where the size of the images was
    `guessed` and the model is near chance, but surely better at another one.
    """
    sample = images.sample(SAMPLE, run.rng("evidence"))
    answers = predictions(copied(model).to(run.device), sample, run)
    rate = matches(answers, sample.labels)
    if as_text is not None and len(as_text) == len(images.classes):
        other = matches(answers, as_text[sample.labels])
        if _told(source, rate, other):
            rate = other
            images, sample = (
                Images(found.pixels, as_text[found.labels], found.classes)
                for found in (images, sample)
            )
    if _near_chance(rate, len(images.classes)):
        if guessed:
            _check_size(model, sample, source, rate, run)
        _warn_near_chance(source, rate, len(images.classes))
    _warn_strange(model, sample, source)
    return images


def read(model: nn.Module, source: Any) -> Images:
    """The images of `source`, in what `model` takes as far as it tells; as `fitting`."""
    found, _ = fitting(model, source)
    if isinstance(source, str | Path):
        data.warn_of_numbers(source, taken(model).get("classes"))
    return found


def warn_thin(clean: Images, after: str = "") -> None:
    """Warns where a class has fewer than `FEW` of the `clean` images of a repair.

    `after` tells what was taken away from them before.
    """
    counts = clean.labels.bincount(minlength=len(clean.classes))
    poor = int((counts < FEW).sum())
    if poor:
        fewest = int(counts.argmin())
        warnings.warn(
            f"{poor} of {len(clean.classes)} classes have fewer than {FEW} clean images{after} "
            f"(fewest: {clean.classes[fewest]}, {int(counts[fewest])}): a repair may cost accuracy "
            "on them",
            UnbackdoorWarning,
            stacklevel=3,
        )


def _near_chance(rate: Rate, classes: int) -> bool:
    """Whether an accuracy is surely too low for a model that reads its images rightly.

    Not with one class.
    """
    if classes < 2:
        return False
    chance, bound = 1 / classes, near_chance(classes)
    if rate.total < FEWEST:
        return rate.interval()[1] <= bound
    # Few images: unsure, but hardly chance.
    return rate.interval()[0] < bound and rate.value <= chance + 2 * (bound - chance)


def _told(source: str, rate: Rate, other: Rate) -> bool:
    """Says both readings of folders with numbers for names; whether that as text is taken."""
    as_text = other.interval()[0] > rate.interval()[1]
    taken = "sorted as text, as torchvision does" if as_text else "by their numbers"
    warnings.warn(
        f"the class folders of {source} are called by numbers; by their numbers the model's "
        f"accuracy is {rate.value:.1%}, sorted as text (0, 1, 10, 2) {other.value:.1%}: they are "
        f"taken {taken}; --classes with their names in order settles it",
        UnbackdoorWarning,
        stacklevel=4,
    )
    return as_text


def _check_size(model: nn.Module, sample: Images, source: str, rate: Rate, run: Run) -> None:
    """Raises `ImagesError` where the model is surely better at another size of the images."""
    own, quiet = copied(model).to(run.device), Run(run.seed, run.device, run.precision)
    found: list[tuple[int, Rate]] = []
    for side in SIDES:
        with suppress(Exception):  # a network may take no images of that size
            images = data.resized(sample, (side, side))
            found.append((side, matches(predictions(own, images, quiet), images.labels)))
    side, best = max(found, key=lambda one: one[1].hits, default=(0, rate))
    if best.interval()[0] > rate.interval()[1]:
        height, width = sample.shape[1:]
        raise ImagesError(
            f"the model does not say for what size of images it was made: on {source} its accuracy "
            f"is {rate.value:.1%} at the most common size, {height}x{width}, but {best.value:.1%} "
            f"at {side}x{side}: say which (--size {side})"
        )


def _warn_near_chance(source: str, rate: Rate, classes: int) -> None:
    warnings.warn(
        f"the model's accuracy on {source} is {rate.value:.1%} of {rate.total} images, near "
        f"the chance of {1 / classes:.1%}: the labels, the size of the images (size) or the "
        "normalisation (mean, std) are probably wrong. A repair on such images does harm",
        UnbackdoorWarning,
        stacklevel=4,
    )


def _warn_strange(model: nn.Module, sample: Images, source: str) -> None:
    found = strangeness(model, to_float(sample[:SEEN].pixels)) if len(sample) >= FEWEST else None
    if found is None or (found[0] <= STRANGE[0] and found[1] <= STRANGE[1]):
        return
    warnings.warn(
        f"{source}: the images are unlike what the model was trained on: its batch norms are off "
        f"by {found[0]:.2f} standard deviations and a factor of {math.exp(found[1]):.1f} in "
        f"variance (at most {STRANGE[0]} and {math.exp(STRANGE[1]):.1f} are usual). The "
        "normalisation (mean, std) may be wrong, or the images are of another kind",
        UnbackdoorWarning,
        stacklevel=4,
    )
