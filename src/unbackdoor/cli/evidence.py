"""Whether images are read as the model reads them: its own answers on clean ones are evidence."""

from __future__ import annotations

import copy
import math
import warnings
from contextlib import suppress

import torch
from torch import Tensor

from .. import data
from ..core.errors import UnbackdoorWarning
from ..core.images import Images, to_float
from ..core.measure import Rate, predictions
from ..core.run import Run
from ..models import Normalized
from ..network.norms import strangeness

SAMPLE = 500
"""So many images tell near chance from a model that can read them."""

FEWEST = 50
"""Fewer images are no evidence that a model cannot read them."""

NEAR_CHANCE = 2.0
"""An accuracy that may be below so many times chance, of 1 / classes, is called near chance..."""

PART_OF_REST = 0.2
"""...but no more than this part of what there is between chance and 1: with two classes 60 %."""

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


def read_rightly(
    model: Normalized,
    images: Images,
    source: str,
    as_text: Tensor | None,
    run: Run,
    *,
    guessed: bool = False,
) -> Images:
    """`images` with the labels that the model agrees with, where two readings are possible.

    `as_text` is the other reading of class folders with numbers for names, if there is one (see
    `data.as_text`). Warns of two readings, and of a model near chance on its clean images; where
    their size was `guessed`, with the size at which it is better, if there is one.
    """
    sample = images.sample(SAMPLE, run.rng("evidence"))
    answers = predictions(copy.deepcopy(model).to(run.device), sample, run)
    rate = _rate(answers, sample.labels)
    if as_text is not None and len(as_text) == len(images.classes):
        other = _rate(answers, as_text[sample.labels])
        agrees = other.interval()[0] > rate.interval()[1]
        images, rate = _told(images, source, as_text, rate, other, agrees=agrees)
    _warn_near_chance(model, sample, rate, source, run, guessed=guessed)
    _warn_strange(model, sample, source)
    return images


def warn_thin(clean: Images) -> None:
    """Warns where a class has fewer than `FEW` of the `clean` images of a repair."""
    counts = clean.labels.bincount(minlength=len(clean.classes))
    poor = int((counts < FEW).sum())
    if poor:
        fewest = int(counts.argmin())
        warnings.warn(
            f"{poor} of {len(clean.classes)} classes have fewer than {FEW} clean images (fewest: "
            f"{clean.classes[fewest]}, {int(counts[fewest])}): a repair may cost accuracy on them",
            UnbackdoorWarning,
            stacklevel=3,
        )


def _warn_strange(model: Normalized, sample: Images, source: str) -> None:
    found = strangeness(model, to_float(sample[:SEEN].pixels)) if len(sample) >= FEWEST else None
    if found is None or (found[0] <= STRANGE[0] and found[1] <= STRANGE[1]):
        return
    warnings.warn(
        f"{source}: the images are unlike what the model was trained on: its batch norms are off "
        f"by {found[0]:.2f} standard deviations and a factor of {math.exp(found[1]):.1f} in "
        f"variance (at most {STRANGE[0]} and {math.exp(STRANGE[1]):.1f} are usual). The "
        "normalisation (--mean, --std) may be wrong, or the images are of another kind",
        UnbackdoorWarning,
        stacklevel=4,
    )


def _told(
    images: Images, source: str, as_text: Tensor, rate: Rate, other: Rate, *, agrees: bool
) -> tuple[Images, Rate]:
    """What two readings of folders with numbers for names there are, and which one is taken."""
    taken = "sorted as text, as torchvision does" if agrees else "by their numbers"
    warnings.warn(
        f"the class folders of {source} are called by numbers; by their numbers the model's "
        f"accuracy is {rate.value:.1%}, sorted as text (0, 1, 10, 2) {other.value:.1%}: they are "
        f"taken {taken}; --classes with their names in order settles it",
        UnbackdoorWarning,
        stacklevel=4,
    )
    if not agrees:
        return images, rate
    return Images(images.pixels, as_text[images.labels], images.classes), other


def _rate(answers: Tensor, labels: Tensor) -> Rate:
    return Rate(int(torch.eq(answers, labels).sum()), len(labels))


def _warn_near_chance(
    model: Normalized, sample: Images, rate: Rate, source: str, run: Run, *, guessed: bool
) -> None:
    count = len(sample.classes)
    if count < 2 or rate.total < FEWEST:
        return
    chance = 1 / count
    bound = min(NEAR_CHANCE * chance, chance + PART_OF_REST * (1 - chance))
    # Few images: unsure, but hardly chance.
    if rate.interval()[0] >= bound or rate.value > chance + 2 * (bound - chance):
        return
    better = _better_size(model, sample, rate, run) if guessed else None
    if better:
        side, other = better
        warnings.warn(
            f"the model's accuracy on {source} is {rate.value:.1%} of {rate.total} images, but "
            f"{other.value:.1%} if they are {side}x{side}: it was most likely made for that "
            f"(--size {side})",
            UnbackdoorWarning,
            stacklevel=4,
        )
        return
    warnings.warn(
        f"the model's accuracy on {source} is {rate.value:.1%} of {rate.total} images, near "
        f"the chance of {chance:.1%}: the labels, the size of the images (--size) or the "
        "normalisation (--mean, --std) are probably wrong. A repair on such images does harm",
        UnbackdoorWarning,
        stacklevel=4,
    )


def _better_size(
    model: Normalized, sample: Images, rate: Rate, run: Run
) -> tuple[int, Rate] | None:
    """The side of images at which the model is best, if it is surely better there."""
    own, quiet = copy.deepcopy(model).to(run.device), Run(run.seed, run.device, run.precision)
    found: list[tuple[int, Rate]] = []
    for side in SIDES:
        with suppress(Exception):  # a network may take no images of that size
            images = data.resized(sample, (side, side))
            found.append((side, _rate(predictions(own, images, quiet), images.labels)))
    best = max(found, key=lambda one: one[1].hits, default=None)
    return best if best and best[1].interval()[0] > rate.interval()[1] else None
