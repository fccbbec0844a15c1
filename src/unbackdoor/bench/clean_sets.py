"""Clean sets that are not quite clean, or not quite like the data: what a defender really holds.

A grid lists them under `[[clean]]`; each is made of the images of the budget. These are the data
set's reserved ones, those of another file, or some that the victim was trained on. Shifted copies
come from elsewhere (another camera, another crop, another encoder); a poisoned one holds a few
images that the attacker slipped in. The defense is not told which set it was given.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur

from ..attacks.base.attack import Attack
from ..core.errors import ParameterError, UnbackdoorWarning
from ..core.images import Images, to_float, to_uint8
from ..core.recall import Learned
from ..core.run import Run
from .shelf import Shelf, others


class CleanSet(BaseModel):
    """How the defender's images differ from the data set's; with the defaults they do not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[\w.-]+$", description="what tables and pages call it")
    blur: float = Field(0, ge=0, le=10, description="width of a Gaussian, pixels; 0 for none")
    crop: int = Field(0, ge=0, description="pixels cut off each side; the rest is enlarged")
    jpeg: int | None = Field(None, ge=1, le=100, description="quality of JPEG; null for none")
    stamped: float = Field(
        0, ge=0, le=1, description="share with the trigger and the attacker's label"
    )
    mislabelled: float = Field(0, ge=0, le=1, description="share given a wrong label at random")
    source: str | None = Field(None, description="source of the images, if it is another one")
    seen: bool = Field(False, description="whether the victim was trained on the images")
    budget: int | float | None = Field(None, description="in place of the budgets of the grid")

    @model_validator(mode="after")
    def _from_one_place(self) -> Self:
        if self.seen and self.source:
            raise ValueError("images of another source were not seen in training; give one of them")
        return self

    def declaration(self) -> dict[str, Any]:
        """What decides the images. What came later is told only if set: older cells stay."""
        told = self.model_dump(mode="json", exclude={"budget"})
        return {key: told[key] for key in told if key not in ("source", "seen") or told[key]}

    def budgets(self, of_grid: Sequence[int | float]) -> Sequence[int | float]:
        """How many images a defender gets of this set, one number a cell."""
        return of_grid if self.budget is None else [self.budget]

    def pool(self, shelf: Shelf, place: str | None, *, download: bool) -> Images:
        """The images that those of the budget are drawn from; `place` is where the source is."""
        if place is None:
            return shelf.train if self.seen else shelf.pool
        return others(place, shelf.test, download=download)

    def made(self, clean: Images, attack: Attack | None, learned: Learned, run: Run) -> Images:
        """The set made of `clean`: poisoned and mislabelled first, then shifted as a whole.

        `attack` and what it `learned` are those of the victim; on a model without one nothing is
        poisoned. The images that are poisoned and those that are mislabelled are others. A share
        is at least one image. Warns where the trigger goes on fewer images than it should.
        """
        self.check(*clean.shape[1:])
        rng = run.rng(f"clean set/{self.name}")
        pixels, labels = clean.pixels.clone(), clean.labels.clone()
        order = torch.randperm(len(clean), generator=rng)
        wrong, rest = order.tensor_split([_share(self.mislabelled, len(clean))])
        other = torch.randint(1, max(2, len(clean.classes)), labels.shape, generator=rng)
        labels[wrong] = ((labels + other) % len(clean.classes))[wrong]
        if attack is not None and self.stamped:
            chosen = self._chosen(attack, clean, rest)
            bait = attack.triggered(clean[chosen], learned)
            pixels[chosen], labels[chosen] = bait.images.pixels, bait.goals
        return Images(self._shifted(pixels), labels, clean.classes)

    def check(self, height: int, width: int) -> None:
        """Raises `ParameterError` where the crop leaves nothing of images of this size."""
        if 2 * self.crop >= min(height, width):
            raise ParameterError(
                f"clean set {self.name}: crop = {self.crop} leaves nothing of {height}x{width}"
            )

    def _chosen(self, attack: Attack, clean: Images, rest: Tensor) -> Tensor:
        """Places of the images to poison: the first of `rest` that the attacker would trigger."""
        wanted = _share(self.stamped, len(clean))
        chosen = list(islice(_aimed(attack, clean, rest), wanted))
        if len(chosen) < wanted:
            warnings.warn(
                f"clean set {self.name} wants {wanted} triggered images; only {len(chosen)} of "
                f"{len(clean)} can be",
                UnbackdoorWarning,
                stacklevel=2,
            )
        return torch.tensor(chosen, dtype=torch.int64)

    def _shifted(self, pixels: Tensor) -> Tensor:
        """The uint8 `pixels` as another camera, crop or encoder would give them."""
        height, width = pixels.shape[2:]
        if self.crop:
            inner = pixels[:, :, self.crop : height - self.crop, self.crop : width - self.crop]
            wide = F.interpolate(to_float(inner), (height, width), mode="bilinear", antialias=True)
            pixels = to_uint8(wide)
        if self.blur:
            side = 2 * min(int(3 * self.blur) + 1, (min(height, width) - 1) // 2) + 1
            pixels = to_uint8(gaussian_blur(to_float(pixels), side, self.blur))
        if self.jpeg is not None:
            pixels = torch.stack([_through_jpeg(image, self.jpeg) for image in pixels])
        return pixels


def _share(share: float, total: int) -> int:
    """How many of `total` a share is: of a share above 0 at least one."""
    return max(1, round(share * total)) if share else 0


def _aimed(attack: Attack, clean: Images, places: Tensor) -> Iterator[int]:
    """Those of the `places` whose images get the trigger at test: of a source, not of the goal.

    One image at a time, for `aimed` tells which images it kept, not where they were.
    """
    for place in places.tolist():
        if len(attack.aimed(clean[place : place + 1]).goals):
            yield place


def _through_jpeg(image: Tensor, quality: int) -> Tensor:
    """The uint8 `image` `[c, h, w]` of one or three channels, encoded and decoded."""
    file = io.BytesIO()
    given = image.permute(1, 2, 0).numpy()
    Image.fromarray(given[..., 0] if len(image) == 1 else given).save(file, "JPEG", quality=quality)
    seen = np.atleast_3d(np.array(Image.open(file)))
    return torch.from_numpy(seen).permute(2, 0, 1).contiguous()
