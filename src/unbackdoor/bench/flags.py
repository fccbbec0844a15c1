"""What makes a result doubtful. Every flag has a meaning and a cure; `docs/limits.md` tells more.

Without torch: the report reads the same table.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

LEAST_SEEDS = 3
"""Fewer say little about how much a number varies."""


class Flag(NamedTuple):
    """A short title, what it means, and what to do."""

    title: str
    meaning: str
    cure: str


FLAGS = {
    "weak-victim": Flag(
        "weak victim",
        "The backdoor hardly works before any repair, so a low ASR after it proves nothing.",
        "Train for longer, poison more images, or leave the attack out.",
    ),
    "undertrained-victim": Flag(
        "undertrained victim",
        "The victim learned less than 95 % of its relabelled (of a clean-label attack: triggered) "
        "or 90 % of its clean training images. "
        "Such a backdoor is fragile: every defense looks better than it is.",
        "Train for more epochs.",
    ),
    "below-linear": Flag(
        "below a linear classifier",
        "The accuracy is below that of a linear classifier on the pixels.",
        "Before a repair: train for longer. After it: the repair destroyed the model; use weaker "
        "parameters or more clean images.",
    ),
    "constant": Flag(
        "constant predictions",
        "Nearly all test images go to one class. If it is not the target the ASR is 0 for no "
        "good reason.",
        "Use weaker parameters or more clean images; do not count the low ASR as a success.",
    ),
    "unchanged": Flag(
        "no weight changed",
        "The defense changed nothing.",
        "Use stronger parameters; the row shows the victim, not the defense.",
    ),
    "destroyed": Flag(
        "repair undone",
        "The accuracy on held-out clean images fell by too much, so the repair was undone.",
        "Use weaker parameters or more clean images.",
    ),
    "leak": Flag(
        "clean images in the test set",
        "Some of the defender's clean images are test images, pixel by pixel, so ACC is too high.",
        "Take the clean images from somewhere else, or remove the duplicates.",
    ),
    "few-seeds": Flag(
        "fewer than three seeds",
        "The spread over seeds is unknown or hardly known.",
        "Add seeds to the grid; what is done is not done again.",
    ),
}


UNDONE = "destroyed"
SAME_WEIGHTS = frozenset({"unchanged", UNDONE})
"""Flags of cells whose model is the victim as it came, so that its measures are no repair's."""


def ordered(flags: Iterable[str]) -> list[str]:
    """Each flag once, in the order of the table."""
    given = set(flags)
    return [name for name in FLAGS if name in given]
