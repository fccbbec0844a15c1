"""BadNets: a small square in the corner."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from ..core.errors import ParameterError
from ..core.method import source
from .base.attack import Attack


class BadNets(Attack):
    """Stamps a square of one colour into the bottom right corner.

    Images are `[n, c, h, w]` in [0, 1]; every channel of the square gets `value`.

    >>> import torch
    >>> BadNets(size=1).stamp(torch.zeros(1, 1, 2, 2)).tolist()
    [[[[0.0, 0.0], [0.0, 1.0]]]]
    """

    paper: ClassVar[str] = (
        "Gu, Dolan-Gavitt, Garg: BadNets: Identifying Vulnerabilities in the Machine Learning "
        "Model Supply Chain, 2017, arXiv 1708.06733"
    )
    limits: ClassVar[str] = "the trigger can be seen, and an occlusion of the corner removes it"

    size: int = Field(
        3,
        ge=1,
        description="side of the square, pixels",
        json_schema_extra=source("BackdoorBench: 3 x 3 at 32 x 32"),
    )
    value: float = Field(
        1.0,
        ge=0,
        le=1,
        description="brightness of the square",
        json_schema_extra=source("BackdoorBench: white"),
    )

    def stamp(self, x: Tensor) -> Tensor:
        """`x` with the square in its bottom right corner."""
        if min(x.shape[2:]) < self.size:
            height, width = x.shape[2:]
            raise ParameterError(
                f"a square of {self.size} pixels does not fit into {height}x{width}"
            )
        stamped = x.clone()
        stamped[..., -self.size :, -self.size :] = self.value
        return stamped
