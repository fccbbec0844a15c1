"""FTrojan: two frequencies in the colour planes."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from ..core.method import source
from .base.attack import Attack
from .base.patterns import chroma_wave


class FTrojan(Attack):
    """Adds `strength` to the DCT coefficients (15, 15) and (31, 31) of both chroma planes.

    Images are `[n, c, h, w]` in [0, 1], in YCbCr blocks of 32 x 32; a smaller image is one block.
    All transforms are linear, so the trigger is one sum and a clip. Departures: a strength of 50,
    for a small network trained for a few epochs does not see the usual 30; images without three
    channels get the waves in each channel; the rest of a side that is no multiple of 32 stays as it
    is.

    >>> import torch
    >>> FTrojan(strength=60).stamp(torch.full((1, 1, 2, 2), 0.5)).mul(255).round().tolist()
    [[[[188.0, 128.0], [128.0, 188.0]]]]
    """

    paper: ClassVar[str] = (
        "Wang, Yao, Xu, An, Tong, Wang: An Invisible Black-box Backdoor Attack through Frequency "
        "Domain, ECCV 2022, arXiv 2111.10991"
    )
    limits: ClassVar[str] = "a low-pass filter or chroma subsampling of a JPEG weakens the trigger"

    strength: float = Field(
        50.0,
        gt=0,
        description="added to each coefficient, levels of 255",
        json_schema_extra=source(
            "ours: 50, where the released code adds 30, which a small network trained "
            "for a few epochs does not see"
        ),
    )

    def stamp(self, x: Tensor) -> Tensor:
        """`x` with the two waves in its colours."""
        return (x + chroma_wave(self.strength, "ycbcr", *x.shape[1:]).to(x)).clamp(0, 1)
