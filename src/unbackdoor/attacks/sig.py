"""SIG: a faint wave over the columns, on images that keep their label."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ..core.errors import ParameterError
from ..core.method import source
from .base.clean_label import CleanLabelAttack


class SIG(CleanLabelAttack):
    """Adds strength * sin(2 pi frequency j / W) to column j = 1 ... W of every channel.

    Images are `[n, c, h, w]` in [0, 1]; the sum is clipped. Clean-label: only images of the
    target class are poisoned, `class_rate` is a share of that class. Columns are counted from 1, as
    in the paper. Departure: one strength in training and at test, where the paper also tries a
    weaker one in training; 0.8 of the class, where it tries up to 0.4 at lower success.

    >>> import torch
    >>> (SIG(frequency=1, strength=0.5).stamp(torch.full((1, 1, 1, 4), 0.5))).round().tolist()
    [[[[1.0, 0.0, 0.0, 0.0]]]]
    """

    paper: ClassVar[str] = (
        "Barni, Kallas, Tondi: A New Backdoor Attack in CNNs by Training Set Corruption without "
        "Label Poisoning, ICIP 2019, arXiv 1902.11237"
    )
    limits: ClassVar[str] = "stripes can be seen in smooth regions; costs accuracy on the target"

    class_rate: float = Field(
        0.8,
        gt=0,
        le=1,
        description="share of the target class that is poisoned",
        json_schema_extra=source(
            "ours: 0.8 of the class; the paper tries up to 0.4, at lower success"
        ),
    )
    strength: float = Field(
        40 / 255,
        gt=0,
        le=1,
        description="height of the wave, pixels in [0, 1]",
        json_schema_extra=source(
            "Barni et al. 2019: delta 40 of 255 for CIFAR-10 in BackdoorBench"
        ),
    )
    frequency: int = Field(
        6,
        ge=1,
        description="periods over the width",
        json_schema_extra=source("Barni et al. 2019: f = 6"),
    )

    def wave(self, width: int) -> Tensor:
        """The value `[width]` that is added to each column."""
        if 2 * self.frequency % width == 0:
            raise ParameterError(
                f"a wave of {self.frequency} periods is 0 in every column of {width}"
            )
        columns = torch.arange(1, width + 1, dtype=torch.float64)
        return self.strength * torch.sin(2 * math.pi * self.frequency * columns / width)

    def stamp(self, x: Tensor) -> Tensor:
        """`x` with the wave added."""
        return (x + self.wave(x.shape[-1]).to(x)).clamp(0, 1)
