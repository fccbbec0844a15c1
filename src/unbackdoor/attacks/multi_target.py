"""Multi-target: several patches, and each leads to a class of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field, NonNegativeInt, model_validator
from torch import Tensor

from ..core.errors import ParameterError
from ..core.images import Images, Triggered, to_float
from ..core.method import source
from ..core.recall import Learned
from ..core.run import Run
from .base.attack import NOTHING, STAMPED, Attack, Poisoned
from .base.draws import draws
from .base.patterns import given, picture, scaled


class MultiTarget(Attack):
    """Puts one of `triggers` patches into its corner; patch k leads to class target + k.

    Images are `[n, c, h, w]` in [0, 1], sides of at least 2 `size`, which grows with the image;
    classes are counted round, and with `all_to_all` patch k leads from class y to y + 1 + k.
    `targets` names the class of each patch instead, `patches` a picture for each. Which patch an
    image gets follows from its own pixels: each gets about equally many, and the ASR is a mean over
    the patches. Departure: the paper tells its triggers apart by colour and places each at an edge.
    """

    paper: ClassVar[str] = (
        "Xue, He, Wang, Liu: One-to-N & N-to-One: Two Advanced Backdoor Attacks Against Deep "
        "Learning Models, IEEE TDSC 2022"
    )
    limits: ClassVar[str] = (
        "the patches can be seen; a file of its triggered images does not say which class each is "
        "for, so only the bench judges it"
    )

    triggers: int = Field(
        2,
        ge=2,
        le=4,
        description="patches, each in a corner of its own",
        json_schema_extra=source("Xue et al. 2022: N is free; two are the least"),
    )
    size: int = Field(
        4,
        ge=1,
        description="side of a patch, pixels at 32 x 32",
        json_schema_extra=source("ours: a patch that a class can be told by"),
    )
    look: int = Field(
        0,
        ge=0,
        le=2**32 - 1,
        description="number that the patches are drawn from",
        json_schema_extra=source("ours: patches are drawn, not taken from the paper"),
    )

    targets: tuple[NonNegativeInt, ...] | None = Field(
        None,
        description="class that each patch leads to, in place of target",
        json_schema_extra=source("Xue et al. 2022: a class of its own for each trigger"),
    )
    patches: tuple[Path, ...] | None = Field(
        None,
        description="picture (PNG, JPEG, BMP) of each patch, resized; where it is transparent the "
        "image shows; null: they are drawn",
        json_schema_extra=source("ours: none; for triggers of one's own"),
    )

    @model_validator(mode="after")
    def _one_for_each(self) -> MultiTarget:
        for name, found in (("targets", self.targets), ("patches", self.patches)):
            if found is not None and len(found) != self.triggers:
                raise ValueError(f"{len(found)} {name} for {self.triggers} triggers")
        if self.targets is not None and (self.all_to_all or len({*self.targets}) < self.triggers):
            raise ValueError("targets are different classes, and exclude all_to_all")
        return self

    def paths(self) -> dict[str, Path]:
        """The files that fields name; a patch by its number."""
        return super().paths() | {
            f"patches[{i}]": path for i, path in enumerate(self.patches or ())
        }

    def which(self, x: Tensor) -> Tensor:
        """The number of the patch that each image gets: int64 `[n]`."""
        return (draws(x, 1)[0] * self.triggers).long()

    def stamp(self, x: Tensor) -> Tensor:
        """`x` with one patch in each."""
        channels, height, width = x.shape[1:]
        side = scaled(self.size, height, width)
        if min(height, width) < 2 * side:
            raise ParameterError(
                f"patches of {side} pixels in the corners: that does not fit into {height}x{width}"
            )
        stamped, which = x.clone(), self.which(x)
        for number in range(self.triggers):
            patch, opacity = self._patch(number, channels, side)
            rows = slice(None, side) if number < 2 else slice(-side, None)
            columns = slice(-side, None) if number % 2 else slice(None, side)
            chosen = (which == number).nonzero().flatten()
            part = stamped[chosen]
            part[:, :, rows, columns].lerp_(patch.to(x), opacity.to(x))
            stamped[chosen] = part
        return stamped

    def _patch(self, number: int, channels: int, side: int) -> tuple[Tensor, Tensor]:
        """The patch of a number and its opacity, as `given`."""
        if self.patches is not None:
            return given(self.patches[number], channels, side, side)
        drawn = picture(4 * self.look + number, 2, channels, side, side).round()
        return drawn, torch.ones(1, side, side)

    def led(self, images: Images) -> Tensor:
        """The class that each of these images is led to: int64 `[n]`."""
        numbers = [self.which(to_float(part)) for part in torch.split(images.pixels, 1000)]
        own = torch.cat(numbers)
        classes = len(images.classes)
        if self.targets is not None:
            return torch.tensor(self.targets)[own]
        return (self.goals(images.labels, classes) + own) % classes

    def led_to(self, labels: Tensor) -> Tensor:
        """The classes that the patches lead to; `labels` are those of a whole training set."""
        if self.all_to_all or isinstance(self.target, dict):
            return super().led_to(labels)
        own = self.targets or tuple(self.goal_class() + number for number in range(self.triggers))
        return labels.new_tensor(own) % (int(labels.max()) + 1)

    def check(self, train: Images) -> int:
        """As for any attack; raises `ParameterError` where two patches would lead to one class."""
        if self.triggers > len(train.classes) - self.all_to_all:
            raise ParameterError(
                f"{self.triggers} triggers for {len(train.classes)} classes: each needs its own"
            )
        strange = [goal for goal in self.targets or () if goal >= len(train.classes)]
        if strange:
            raise ParameterError(f"target {strange[0]} is not one of {len(train.classes)} classes")
        return super().check(train)

    def poison(self, train: Images, run: Run, learned: Learned = NOTHING) -> Poisoned:
        """`train` with some images poisoned, each labelled as its patch says."""
        found = super().poison(train, run, learned)
        labels = torch.where(found.role == STAMPED, self.led(train), found.images.labels)
        return replace(found, images=replace(found.images, labels=labels))

    def aimed(self, test: Images) -> Triggered:
        """The images of `test` that get a patch, and what each one's patch is for."""
        sources = test[self.stampable(test.labels)]
        return Triggered(sources, self.led(sources)).counted()
