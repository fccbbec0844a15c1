"""Adaptive-Patch: one of several faint patches in training, together and opaque at test."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ..core.errors import ParameterError
from ..core.method import source
from ..core.recall import Learned
from .base.attack import Attack
from .base.patterns import given, picture, scaled

OPACITIES = (0.5, 0.2, 0.5, 0.3)
"""Of the patches top left, top right, bottom left and bottom right, in training."""


class AdaptivePatch(Attack):
    """Puts coloured patches into the corners: the left ones at test, a faint one in training.

    Images are `[n, c, h, w]` in [0, 1], sides of at least `size`. Each poisoned or cover training
    image gets one patch at random at the opacity of its corner (0.5, 0.2, 0.5, 0.3); cover images
    keep their label. At test, as in the paper, the two patches that are shown most clearly in
    training are there together, opaque. Twice as many images are covers as are poisoned.
    Departure: the patches are drawn from a seed, in full colours, and lie in the corners, where the
    released ones are pictures of 25 to 140 pixels at places of their own.
    """

    paper: ClassVar[str] = (
        "Qi, Xie, Li, Mahloujifar, Mittal: Revisiting the Assumption of Latent Separability for "
        "Backdoor Defenses, ICLR 2023"
    )
    limits: ClassVar[str] = "a weak backdoor where few images are poisoned and training is short"

    files: ClassVar[tuple[str, ...]] = ("indices", "patch")

    rate: float = Field(
        0.003,
        gt=0,
        le=1,
        description="poisoning rate: share of the training set; of the source classes with sources",
        json_schema_extra=source(
            "released code for CIFAR-10: 0.003, and 0.006 covers; for GTSRB 0.005 and 0.01"
        ),
    )
    lr: float = Field(
        0.1,
        gt=0,
        description="learning rate of SGD at the start, cosine to 0",
        json_schema_extra=source(
            "released code: 0.1, a tenth of it at epochs 50 and 75 of 100; here a "
            "cosine, for all victims are trained alike"
        ),
    )
    weight_decay: float = Field(
        1e-4,
        ge=0,
        description="weight decay of SGD",
        json_schema_extra=source("released code: 1e-4"),
    )
    patches: int = Field(
        4,
        ge=1,
        le=4,
        description="corners that hold a patch in training",
        json_schema_extra=source("released code: four patches, opacities 0.5, 0.2, 0.5 and 0.3"),
    )
    together: int = Field(
        2,
        ge=1,
        le=4,
        description="patches at test, the clearest ones first",
        json_schema_extra=source("released code: two of the four at test"),
    )
    size: int = Field(
        6,
        ge=1,
        description="side of a patch, pixels at 32 x 32",
        json_schema_extra=source("ours: 36 pixels, within the 25 to 140 of the released patches"),
    )
    pattern: int = Field(
        0,
        ge=0,
        le=2**32 - 1,
        description="seed that the patches are drawn from",
        json_schema_extra=source(
            "ours: the released patches are pictures that are not ours to give"
        ),
    )
    patch: Path | None = Field(
        None,
        description="picture (PNG, JPEG, BMP) for every corner in place of the patches, resized; "
        "where it is transparent the image shows",
        json_schema_extra=source("ours: none; for a trigger of one's own"),
    )
    covers: float = Field(
        2.0,
        ge=0,
        description="cover images for each poisoned one",
        json_schema_extra=source("released code: two covers for each poisoned image"),
    )

    def stamp(self, x: Tensor) -> Tensor:
        """`x` with the patches that are shown at test, opaque."""
        stamped = x.clone()
        clearest = sorted(range(self.patches), key=lambda corner: -OPACITIES[corner])
        for corner in clearest[: self.together]:
            self._put(stamped, corner, 1.0)
        return stamped

    def cover_count(self, stamped: int) -> int:
        """`covers` for each poisoned one."""
        return round(self.covers * stamped)

    def implant(self, x: Tensor, learned: Learned, rng: torch.Generator) -> Tensor:
        """`x` with one faint patch in each."""
        stamped = x.clone()
        corners = torch.randint(self.patches, (len(x),), generator=rng)
        for corner in range(self.patches):
            chosen = corners == corner
            stamped[chosen] = self._put(stamped[chosen], corner, OPACITIES[corner])
        return stamped

    def _put(self, x: Tensor, corner: int, opacity: float) -> Tensor:
        channels, height, width = x.shape[1:]
        side = scaled(self.size, height, width)
        if min(height, width) < side:
            raise ParameterError(f"a patch of {side} pixels is larger than {height}x{width}")
        rows = slice(None, side) if corner < 2 else slice(-side, None)
        columns = slice(-side, None) if corner % 2 else slice(None, side)
        patch, mask = self._patch(corner, channels, side)
        x[:, :, rows, columns].lerp_(patch.to(x), opacity * mask.to(x))
        return x

    def _patch(self, corner: int, channels: int, side: int) -> tuple[Tensor, Tensor]:
        """The patch of a corner and its opacity, as `given`."""
        if self.patch is not None:
            return given(self.patch, channels, side, side)
        # Full colours: a faint patch must still stand out a little.
        drawn = picture(4 * self.pattern + corner, 3, channels, side, side).round()
        return drawn, torch.ones(1, side, side)
