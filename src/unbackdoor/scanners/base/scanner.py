"""Scanner: what every scanner shares. One method is one file in `scanners/`.

A scanner sees the model, clean images and a `Run`. It has no way to reach an attack, a trigger, a
target or a test set. It gives a number for each class and one for the model, and judges neither:
what is unusual is decided against clean models of the same kind (`calibration`, `verdict`).
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ...core.errors import ImagesError, ModelError, ParameterError
from ...core.images import Images
from ...core.measure import check
from ...core.method import Method, source
from ...core.modules import copied
from ...core.run import Run
from .changes import warped


@dataclass(frozen=True, eq=False)
class Finding:
    """What a scanner saw: larger numbers are more suspicious.

    `classes` is float32 `[classes]`, a number for each class. `score` is that of the model, which
    the verdict compares with clean models. `change` is the change of all images that was found
    for the most suspicious class, if there is one: float `[c, h, w]`, added to images in [0, 1];
    where it is a patch, `mask` `[h, w]` says how much of the image it covers and `change` is its
    picture; where it is a `warp`, `change` is `[2, h, w]`: how far to the right and down each pixel
    is taken from, in pixels. `reach` is the share of the images that the change sends to that
    class. `notes` are numbers worth keeping.
    """

    classes: Tensor
    score: float
    change: Tensor | None = None
    mask: Tensor | None = None
    warp: bool = False
    reach: float | None = None
    notes: Mapping[str, float] = field(default_factory=dict)

    @property
    def suspect(self) -> int:
        """The class that the evidence points to; the first of those that are equal."""
        return int(self.classes.argmax())

    @property
    def leading(self) -> int | None:
        """The class that stands out most; None where others stand out as much."""
        alone = int((self.classes == self.classes.max()).sum()) == 1
        return self.suspect if alone else None

    def applied(self, x: Tensor) -> Tensor:
        """The images `x` `[n, c, h, w]` with the change that was found."""
        if self.change is None:
            return x
        if self.warp:
            return warped(x, self.change.unsqueeze(0))
        if self.mask is None:
            return (x + self.change).clamp(0, 1)
        return x + self.mask * (self.change - x)


class Scanner(Method):
    """A way to tell whether a trained model holds a backdoor, and for which class."""

    statistic: ClassVar[str]
    """What the number of a class is, for a person."""

    needs_images: ClassVar[bool] = True
    """Whether it works on clean images; if not, only their size counts."""

    compares_classes: ClassVar[bool] = False
    """Whether the score only compares the classes of a model with each other, so that clean models
    of other kinds tell something, too."""

    per_class: int = Field(
        20,
        ge=1,
        description="largest number of clean images of each class that are used",
        json_schema_extra=source("ours: what a person can label in an hour"),
    )

    def go_without_images(self) -> None:
        """Raises `ParameterError` for a scanner that works on clean images."""
        if self.needs_images:
            raise ParameterError(f"{self.name()} needs clean images (--clean SRC)")

    def scan(self, model: nn.Module, clean: Images, run: Run) -> Finding:
        """What is found in a copy of `model` on `run.device`; the model itself stays as it came.

        Its notes add the `seconds` and the number of `images` used. Raises `ModelError` for
        weights or outputs that are not finite, or a network that the method cannot handle, and
        `ImagesError` for images that do not fit.
        """
        if not len(clean):
            raise ImagesError(f"{self.name()} needs clean images, got none")
        check(model, clean)
        used = drawn(clean, self.per_class, run.rng("scanned"))
        start = time.perf_counter()
        own = copied(model).to(run.device).eval().requires_grad_(False)
        found = self.look(own, used, run)
        if not bool(torch.isfinite(found.classes).all()):
            raise ModelError(f"{self.name()} found numbers that are not finite")
        spent = {"seconds": time.perf_counter() - start, "images": float(len(used))}
        return replace(found, notes={**found.notes, **spent})

    @abstractmethod
    def look(self, model: nn.Module, clean: Images, run: Run) -> Finding:
        """What is found in `model`, which is the scanner's own copy, frozen and in eval mode."""


def drawn(clean: Images, most: int, rng: torch.Generator) -> Images:
    """At most `most` images of each class, the classes mixed."""
    order = torch.randperm(len(clean), generator=rng)
    kept = [order[clean.labels[order] == label][:most] for label in range(len(clean.classes))]
    rows = torch.cat(kept)
    return clean[rows[torch.randperm(len(rows), generator=rng)]]


def outlying(values: Tensor) -> float:
    """By how much the largest of `values` `[classes]` stands out from the others.

    In deviations: 1.4826 times the median absolute deviation of the others from their median. 0
    where it does not stand out.
    """
    ordered = values.double().sort().values
    rest = ordered[:-1]
    middle = rest.quantile(0.5)
    deviation = 1.4826 * (rest - middle).abs().quantile(0.5)
    # A floor, so that values that hardly differ make no outlier of a rounding error.
    floor = 1e-3 * float(values.abs().max()) + torch.finfo(torch.float32).tiny
    return max(0.0, float((ordered[-1] - middle) / deviation.clamp_min(floor)))
