"""Views of clean images, where there are few of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..core.images import Images
from ..core.measure import accuracy
from ..core.run import Run
from .fit import augment

View = Callable[[Tensor], Tensor]
"""Images `[n, c, h, w]` in [0, 1] -> as many of that shape, each the same thing seen anew."""

ALIKE = 0.95
"""Images are mirrored too where `model` keeps so much of its accuracy on mirrored ones."""


def as_is(x: Tensor) -> Tensor:
    """The images themselves."""
    return x


def cropped(x: Tensor) -> Tensor:
    """Each cropped at random, by torch's global generator on the CPU."""
    return augment(x, torch.default_generator, flip=False)


def cropped_or_mirrored(x: Tensor) -> Tensor:
    """Each cropped at random, and half of them mirrored."""
    return augment(x, torch.default_generator, flip=True)


def for_few(model: nn.Module, images: Images, run: Run) -> View:
    """How `images` are shown where they are few: never just the same."""
    return cropped_or_mirrored if mirrors(model, images, run) else cropped


def notes(view: View) -> dict[str, float]:
    """What a view does, as the notes of a repair."""
    return {"cropped": float(view is not as_is), "mirrored": float(view is cropped_or_mirrored)}


def mirrors(model: nn.Module, images: Images, run: Run) -> bool:
    """Whether `model` tells mirrored images as well as these, so that mirroring changes no class.

    A network that was trained on traffic signs or digits as they are loses half of its accuracy.
    """
    mirrored = Images(images.pixels.flip(-1), images.labels, images.classes)
    as_they_are, turned = (accuracy(model, each, run).value for each in (images, mirrored))
    return turned >= ALIKE * as_they_are
