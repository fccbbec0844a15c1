"""Views of clean images, where there are few of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from ..core.images import Images
from ..core.measure import accuracy
from ..core.run import Run
from .fit import augment

ALIKE = 0.95
"""Images are mirrored too where `model` keeps so much of its accuracy on mirrored ones."""

MOST = 0.5
"""The largest share of another image that is mixed in."""


@dataclass(frozen=True)
class View:
    """Images `[n, c, h, w]` in [0, 1] -> as many of that shape, each seen anew.

    Each is `cropped` at random, half of them `mirrored`, and each `mixed` with up to `MOST` of
    another one, seen anew, too. Draws come from torch's global generator of their device.
    """

    cropped: bool = False
    mirrored: bool = False
    mixed: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """The images `x` in this view."""
        seen = self._moved(x)
        if not self.mixed:
            return seen
        shares = MOST * torch.rand(len(x), 1, 1, 1, device=x.device)
        others = self._moved(x)[torch.randperm(len(x), device=x.device)]
        return torch.lerp(seen, others, shares.to(x))

    def notes(self) -> dict[str, float]:
        """What it does, as the notes of a repair."""
        return {name: float(done) for name, done in asdict(self).items()}

    def _moved(self, x: Tensor) -> Tensor:
        return augment(x, None, flip=self.mirrored) if self.cropped else x


def for_few(model: nn.Module, images: Images, run: Run) -> View:
    """How `images` are shown where they are few: never just the same."""
    return View(cropped=True, mirrored=mirrors(model, images, run))


def mirrors(model: nn.Module, images: Images, run: Run) -> bool:
    """Whether `model` tells mirrored images as well as these, so that mirroring changes no class.

    A network that was trained on traffic signs or digits as they are loses half of its accuracy.
    """
    mirrored = Images(images.pixels.flip(-1), images.labels, images.classes)
    as_they_are, turned = (accuracy(model, each, run).value for each in (images, mirrored))
    return turned >= ALIKE * as_they_are
