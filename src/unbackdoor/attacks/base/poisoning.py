"""Poisoning: the data side of an attack, which needs no network unless its trigger is learned."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, NonNegativeInt, field_validator, model_validator
from torch import Tensor, nn

from ...core.errors import ParameterError, UnbackdoorWarning
from ...core.files import sha256
from ...core.images import Images, Triggered
from ...core.method import Method, source
from ...core.recall import Learned
from ...core.run import Run
from .parts import CLEAN, COVER, NOTHING, STAMPED, Poisoned, Stamp, in_parts, numbers_in


class Poisoning(Method):
    """The data side of an attack: a trigger, what it should do, and which images carry it.

    The images that may be poisoned are all training images, those of `sources` if it is given, or
    those of the target class for a clean-label attack, which changes no label.
    """

    clean_label: ClassVar[bool] = False
    """Whether poisoned training images keep their label, and so come from the target class."""

    files: ClassVar[tuple[str, ...]] = ("indices",)
    """The fields that name files; what is learned is filed by what is in them."""

    one_target: ClassVar[bool] = False
    """Whether the trigger is made for one class, so that there can be no label map."""

    target: NonNegativeInt | dict[NonNegativeInt, NonNegativeInt] = Field(
        0,
        description="class that triggered images go to, unless all_to_all; or a label map, "
        '{"3": 5, "4": 1}: class 3 goes to 5, 4 to 1, and no other class is triggered',
        json_schema_extra=source("convention of BackdoorBench: class 0"),
    )
    all_to_all: bool = Field(
        False,
        description="label y goes to y + 1 instead of to the target",
        json_schema_extra=source("Gu et al. 2017 (BadNets): label y to y + 1"),
    )
    sources: tuple[NonNegativeInt, ...] | None = Field(
        None,
        min_length=1,
        description="source classes: true classes whose images are poisoned; null for all",
        json_schema_extra=source("source-specific attacks, as Tang et al. 2021 (TaCT) study them"),
    )
    rate: float = Field(
        0.1,
        gt=0,
        le=1,
        description="poisoning rate: share of the training set; of the source classes with sources "
        "or a label map",
        json_schema_extra=source(
            "BackdoorBench: pratio 0.1 of the training set, which is all that may be poisoned there"
        ),
    )
    count: int | None = Field(
        None,
        ge=1,
        description="number of poisoned images, in place of rate",
        json_schema_extra=source("ours: for attacks of a few images"),
    )
    indices: Path | None = Field(
        None,
        description="file of the numbers of the training images to poison, one a line or .npy, in "
        "place of rate and count",
        json_schema_extra=source("ours: so that a poisoned set can be made again elsewhere"),
    )
    source_covers: float = Field(
        1.0,
        ge=0,
        description="with sources or a label map: images of other classes that get the trigger "
        "but keep their label, for each poisoned one",
        json_schema_extra=source("Tang et al. 2021 (TaCT): as many covers as poisoned images"),
    )

    @field_validator("all_to_all", "sources")
    @classmethod
    def _means_something(cls, value: Any) -> Any:
        if cls.clean_label and value:
            raise ValueError("a clean-label attack only poisons images of its one target class")
        return value

    @field_validator("target")
    @classmethod
    def _is_a_target(cls, value: int | dict[int, int]) -> int | dict[int, int]:
        if not isinstance(value, dict):
            return value
        if cls.clean_label or cls.one_target:
            raise ValueError("the trigger is made for one class; a label map has several")
        if not value or any(true == goal for true, goal in value.items()):
            raise ValueError("a label map sends each of its classes to another one")
        return value

    @model_validator(mode="after")
    def _says_it_once(self) -> Self:
        if isinstance(self.target, dict) and (self.sources is not None or self.all_to_all):
            raise ValueError(
                "a label map says which classes are triggered: no sources, no all_to_all"
            )
        return self

    def goal_class(self) -> int:
        """The one target; raises `ParameterError` where there is a label map."""
        if isinstance(self.target, dict):
            raise ParameterError(f"{self.name()} needs one target, not a label map")
        return self.target

    def triggered_classes(self) -> tuple[int, ...] | None:
        """The true classes whose images are triggered; None for all."""
        return tuple(self.target) if isinstance(self.target, dict) else self.sources

    def stamp(self, x: Tensor) -> Tensor:
        """The images `x` `[n, c, h, w]` in [0, 1] with the trigger in each; pure, per image."""
        raise ParameterError(
            f"{self.name()} must first learn its trigger: apply it with trigger(learned), where "
            "learned comes from plant(model, train, run) or learn(model, train, run)"
        )

    def closed_form(self) -> bool:
        """Whether the trigger is known without learning anything."""
        return type(self).learn is Poisoning.learn

    def learn(self, model: nn.Module, train: Images, run: Run) -> Learned:
        """What the trigger is made of; `model` is what the victim will be trained from."""
        return NOTHING

    def trigger(self, learned: Learned) -> Stamp:
        """The function that puts the trigger on test images."""
        return self.stamp

    def implant(self, x: Tensor, learned: Learned, rng: torch.Generator) -> Tensor:
        """The training images `x`, poisoned: by default with the trigger of test images."""
        return self.trigger(learned)(x)

    def cover_count(self, stamped: int) -> int:
        """How many cover images go with `stamped` poisoned ones: none by default."""
        return 0

    def cover(self, x: Tensor, learned: Learned, rng: torch.Generator) -> Tensor:
        """The training images `x` as cover images."""
        return self.implant(x, learned, rng)

    def goals(self, labels: Tensor, classes: int) -> Tensor:
        """The label that the attacker wants for a triggered image of each true label."""
        led = self.target if isinstance(self.target, dict) else {}
        targets = () if self.all_to_all else tuple(led.values()) or (self.goal_class(),)
        named = {"target": targets, "source": self.triggered_classes() or ()}
        for kind, numbers in named.items():
            if numbers and max(numbers) >= classes:
                raise ParameterError(
                    f"{kind} {max(numbers)} is not one of {classes} classes (0 to {classes - 1})"
                )
        if self.all_to_all:
            return (labels + 1) % classes
        if not led:
            return torch.full_like(labels, self.goal_class())
        goals = torch.arange(classes, device=labels.device)
        for true, goal in led.items():
            goals[true] = goal
        return goals[labels]

    def stampable(self, labels: Tensor) -> Tensor:
        """Indices of the training images with these true `labels` that may be poisoned."""
        if self.clean_label:
            return (labels == self.goal_class()).nonzero().flatten()
        return self._from_sources(labels).nonzero().flatten()

    def _from_sources(self, labels: Tensor) -> Tensor:
        classes = self.triggered_classes()
        if classes is None:
            return torch.ones_like(labels, dtype=torch.bool)
        return torch.isin(labels, torch.tensor(classes, device=labels.device))

    def wanted(self, train: Images) -> int:
        """How many images of `train` are to be poisoned where no `count` says so: at least one."""
        return max(1, round(self.rate * len(self.stampable(train.labels))))

    def check(self, train: Images) -> int:
        """How many images of `train` are poisoned; raises `ParameterError` where it cannot be."""
        self.goals(train.labels, len(train.classes))
        pool = self.stampable(train.labels)
        if self.indices is not None:
            return len(self.listed(pool, train))
        count, there = self.count or self.wanted(train), len(pool)
        if count > there:
            raise ParameterError(
                f"{self.name()} is to poison {count} images, but only {there} may be poisoned"
            )
        return count

    def listed(self, pool: Tensor, train: Images) -> Tensor:
        """The images of `indices`; raises `ParameterError` where one is not in `pool`."""
        assert self.indices is not None
        found = numbers_in(self.indices)
        strange = found[~torch.isin(found, pool)]
        if len(strange):
            raise ParameterError(
                f"{self.indices} names training image {int(strange[0])} (of {len(train)}, counted "
                f"from 0), which {self.name()} may not poison"
            )
        return found

    def chosen(self, train: Images, run: Run) -> tuple[Tensor, Tensor]:
        """Indices of the images to poison, at least one, and of those that become cover images."""
        count = self.check(train)
        rng = run.rng("poison")
        pool = self.stampable(train.labels)
        if self.indices is None:
            stamped = pool[torch.randperm(len(pool), generator=rng)[:count]]
        else:
            stamped = self.listed(pool, train)
        rest = _without(torch.arange(len(train)), stamped)
        return stamped, self._some(rest, self.cover_count(count), rng)

    def source_cover_pool(self, labels: Tensor) -> Tensor:
        """Indices of the images that show, with the trigger, what the trigger is not to work on.

        They are of no source, and their label is not the goal; none without `sources`.
        """
        others = ~self._from_sources(labels) & ~torch.isin(labels, self.led_to(labels))
        return others.nonzero().flatten()

    def led_to(self, labels: Tensor) -> Tensor:
        """The classes that triggers lead to, int64; none where each class is led to another."""
        target = self.target.values() if isinstance(self.target, dict) else (self.target,)
        return labels.new_tensor(() if self.all_to_all else tuple(target))

    def _some(self, rest: Tensor, wanted: int, rng: torch.Generator) -> Tensor:
        if wanted > len(rest):
            warnings.warn(
                f"{self.name()} wants {wanted} cover images, but only {len(rest)} are left",
                UnbackdoorWarning,
                stacklevel=4,
            )
        return rest[torch.randperm(len(rest), generator=rng)[:wanted]]

    def poison(self, train: Images, run: Run, learned: Learned = NOTHING) -> Poisoned:
        """`train` with some images poisoned and relabelled, in 8 bits, fixed from here on."""
        stamped, covers = self.chosen(train, run)
        pixels, labels = train.pixels.clone(), train.labels.clone()
        rng = run.rng("poison/images")
        pixels[stamped] = in_parts(lambda x: self.implant(x, learned, rng), pixels[stamped])
        pixels[covers] = in_parts(lambda x: self.cover(x, learned, rng), pixels[covers])
        labels[stamped] = self.goals(labels[stamped], len(train.classes))
        role = torch.full_like(labels, CLEAN, dtype=torch.int8)
        role[stamped], role[covers] = STAMPED, COVER
        pool = self.source_cover_pool(train.labels)
        wanted = round(self.source_covers * len(stamped)) if len(pool) else 0
        others = self._some(_without(pool, torch.cat([stamped, covers])), wanted, rng)
        pixels[others] = in_parts(lambda x: self.implant(x, learned, rng), pixels[others])
        role[others] = COVER
        return Poisoned(Images(pixels, labels, train.classes), role, train.labels)

    def aimed(self, test: Images) -> Triggered:
        """The images of `test` that get the trigger: of a source class that is not the goal."""
        sources = test[self._from_sources(test.labels)]
        return Triggered(sources, self.goals(sources.labels, len(test.classes))).counted()

    def triggered(self, test: Images, learned: Learned = NOTHING) -> Triggered:
        """The `aimed` images of `test`, with the trigger."""
        kept = self.aimed(test)
        pixels = in_parts(self.trigger(learned), kept.images.pixels)
        return Triggered(Images(pixels, kept.images.labels, test.classes), kept.goals)

    def elsewhere(self, test: Images, learned: Learned = NOTHING) -> Triggered | None:
        """Triggered images of `test` whose class is no source; None where there are none of them.

        A source-specific trigger does nothing on them. None, too, for a label map of several goals:
        nothing says which of them another class would go to.
        """
        sources = self.triggered_classes()
        goals = set(self.target.values()) if isinstance(self.target, dict) else {self.target}
        others = tuple(k for k in range(len(test.classes)) if k not in (sources or ()))
        if sources is None or not others or len(goals) > 1:
            return None
        wanted = {"sources": others, "target": goals.pop()}
        found = self.model_copy(update=wanted).triggered(test, learned)
        return found if len(found.goals) else None

    def paths(self) -> dict[str, Path]:
        """The files that fields name, by the field."""
        return {name: path for name in self.files if (path := getattr(self, name)) is not None}

    def contents(self) -> dict[str, str]:
        """The SHA-256 of each of its files."""
        return {name: sha256(path) for name, path in self.paths().items()}


def _without(rows: Tensor, taken: Tensor) -> Tensor:
    return rows[~torch.isin(rows, taken)]
