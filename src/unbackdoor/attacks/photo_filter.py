"""Photo filter: other tones all over the image."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator
from torch import Tensor

from ..core.errors import ParameterError
from ..core.method import source
from .base.attack import Attack


class PhotoFilter(Attack):
    """Bends the tones of each image by `gamma` and shifts its colours by `cast`, all over.

    Images are `[n, c, h, w]` in [0, 1]: out comes x ** gamma, the first of three channels times
    1 + cast and the last times 1 - cast. Images of another number of channels have no colour
    cast. Departure: the paper uses the filters of a photo service; this is their common part.

    >>> import torch
    >>> PhotoFilter(gamma=2, cast=0).stamp(torch.full((1, 1, 1, 1), 0.5)).item()
    0.25
    """

    paper: ClassVar[str] = (
        "Liu, Lee, Tao, Ma, Aafer, Zhang: ABS: Scanning Neural Networks for Back-doors by "
        "Artificial Brain Stimulation, CCS 2019 (its filter triggers); as in practice"
    )
    limits: ClassVar[str] = "says little on black or white images; it can be seen"

    gamma: float = Field(
        1.6,
        gt=0,
        le=10,
        description="power of the tones; above 1 is darker",
        json_schema_extra=source("ours: about what a filter of a photo service does"),
    )
    cast: float = Field(
        0.3,
        ge=-1,
        le=1,
        description="more of the first channel, less of the last",
        json_schema_extra=source("ours: about what a warm filter does"),
    )

    @model_validator(mode="after")
    def _does_something(self) -> PhotoFilter:
        if self.gamma == 1 and self.cast == 0:
            raise ValueError("a gamma of 1 and a cast of 0 change no image")
        return self

    def stamp(self, x: Tensor) -> Tensor:
        """`x` in other tones."""
        bent = x.clamp(0, 1) ** self.gamma
        if x.shape[1] == 3:
            gains = x.new_tensor([1 + self.cast, 1, 1 - self.cast]).view(3, 1, 1)
            return (bent * gains).clamp(0, 1)
        if self.gamma == 1:
            raise ParameterError(f"a colour cast needs 3 channels; these images have {x.shape[1]}")
        return bent
