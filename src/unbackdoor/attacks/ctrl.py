"""CTRL: two frequencies in the colour planes, on images that keep their label."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from ..core.method import source
from .base.clean_label import CleanLabelAttack
from .base.patterns import chroma_wave


class CTRL(CleanLabelAttack):
    """Adds `strength` to the DCT coefficients (15, 15) and (31, 31) of the planes U and V.

    Images are `[n, c, h, w]` in [0, 1], in YUV blocks of 32 x 32; a smaller image is one block.
    Clean-label: half of the target class is poisoned (`class_rate`) as in BackdoorBench, which also
    trains with labels; a tenth of it is too little for that. The paper attacks contrastive
    learning. One strength in training and at test, as in the released code. Departure: images
    without three channels get the waves in each channel.

    >>> import torch
    >>> CTRL(strength=60).stamp(torch.full((1, 1, 2, 2), 0.5)).mul(255).round().tolist()
    [[[[188.0, 128.0], [128.0, 188.0]]]]
    """

    paper: ClassVar[str] = (
        "Li, Pang, Xi, Du, Ji, Yao, Wang: An Embarrassingly Simple Backdoor Attack on "
        "Self-supervised Learning, ICCV 2023, arXiv 2210.07346"
    )
    limits: ClassVar[str] = "a low-pass filter or chroma subsampling of a JPEG weakens the trigger"

    strength: float = Field(
        100.0,
        gt=0,
        description="added to each coefficient, levels of 255",
        json_schema_extra=source("released code: magnitude 100 in training and at test"),
    )

    def stamp(self, x: Tensor) -> Tensor:
        """`x` with the two waves in its colours."""
        return (x + chroma_wave(self.strength, "yuv", *x.shape[1:]).to(x)).clamp(0, 1)
