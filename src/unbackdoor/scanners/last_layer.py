"""The last layer alone: a class whose weights stand out."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from ..core.images import Images
from ..core.run import Run
from .base.head import head_of
from .base.scanner import Finding, Scanner, outlying


class LastLayer(Scanner):
    """Looks for a class whose weights in the last layer stand out. Needs no real images.

    A class's number is the sum of its weights minus the mean of the other classes' sums, for
    features that are not negative: how much a feature map raises that class on average. A model
    that learned to send anything with a trigger to one class tends to have one such class. Takes
    about a second.

    After DFBScanner, which reports that indicators of the last layer are enough. Its text does
    not say which indicators they are, so this one is ours and its numbers are not theirs.
    """

    paper: ClassVar[str] = (
        "after DFBScanner (arXiv 2605.18907, 2026); the statistic is this project's own"
    )
    limits: ClassVar[str] = (
        "sees the last layer only; the statistic is weak where the last layer was trained for "
        "long, and an attacker who knows it can hide from it"
    )
    statistic: ClassVar[str] = "sum of the class's weights in the last layer, less that of others"
    needs_images: ClassVar[bool] = False

    def look(self, model: nn.Module, clean: Images, run: Run) -> Finding:
        """The classes whose rows of the last layer stand out."""
        head = head_of(model, clean[:2], run, self.name())
        sums = head.weight.sum(1)
        others = (sums.sum() - sums) / max(1, len(sums) - 1)
        values = (sums - others) / head.weight.std().clamp_min(torch.finfo(torch.float32).tiny)
        return Finding(values, outlying(values))
