"""Attack: what every way to plant a backdoor shares. One method is one file in `attacks/`.

A trigger is a function of an image. Where it is known in closed form, an attack writes `stamp` and
is done. Where it must first be learned (an encoder, a perturbation found on a clean model), the
declaration cannot hold it, for it never changes: `learn` returns the tensors that were learned,
and `trigger(learned)` the function made of them. `plant` learns, poisons, trains, and hands back
what was learned in the `Victim`, so stamped test images always come from
`attack.triggered(test, victim.learned)`. With `run.cache` nothing is learned twice.

Training images may be stamped otherwise than test images: that is `implant`. Cover images look
nearly stamped but keep their label: `cover_count` says how many, `cover` how they look. An attack
that controls the training overrides `plant`, and has no fixed poisoned set.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeInt, field_validator
from torch import Tensor, nn

from ...core.errors import ParameterError, UnbackdoorWarning
from ...core.images import Images, Triggered, to_float, to_uint8
from ...core.method import Method
from ...core.recall import Learned, recall
from ...core.run import Run
from ...training.fit import fit
from .surrogate import surrogate

CLEAN, STAMPED, COVER = 0, 1, 2
ROLES = ("clean", "stamped", "cover")

NOTHING: Learned = MappingProxyType({})
"""What a trigger in closed form has learned."""

Stamp = Callable[[Tensor], Tensor]
"""Images `[n, c, h, w]` in [0, 1] -> the same with the trigger in each; pure, per image."""


@dataclass(frozen=True, eq=False)
class Poisoned:
    """A poisoned training set: what the victim is trained on, and what was done to it.

    `role` int8 `[n]` is CLEAN, STAMPED or COVER for every image; `original` int64 `[n]` holds the
    labels before the attack. A cover image was changed and keeps its label.
    """

    images: Images
    role: Tensor
    original: Tensor


@dataclass(frozen=True, eq=False)
class Victim:
    """A model with a backdoor, the training set that put it there, and what was learned for it.

    `poisoned` is None where the attack controlled the training and no fixed set exists.
    """

    model: nn.Module
    poisoned: Poisoned | None
    learned: Learned = field(default_factory=dict)


class Attack(Method):
    """A way to plant a backdoor: a trigger, what it should do, and how the victim is trained.

    The images that may be stamped are all training images, those of `sources` if it is given, or
    those of the target class for a clean-label attack, which changes no label.
    """

    clean_label: ClassVar[bool] = False
    """Whether stamped training images keep their label, and so come from the target class."""

    target: int = Field(0, ge=0, description="class that stamped images go to, unless all_to_all")
    all_to_all: bool = Field(False, description="label y goes to y + 1 instead of to the target")
    sources: tuple[NonNegativeInt, ...] | None = Field(
        None, min_length=1, description="true classes whose images are stamped; null for all"
    )
    rate: float = Field(0.1, gt=0, le=1, description="share stamped of the images that may be")
    count: int | None = Field(None, ge=1, description="number of images stamped, in place of rate")
    epochs: int = Field(100, ge=1, description="passes over the poisoned training set")
    lr: float = Field(0.01, gt=0, description="learning rate of SGD at the start, cosine to 0")
    batch: int = Field(128, ge=2, description="images a step")
    weight_decay: float = Field(5e-4, ge=0, description="weight decay of SGD")
    flip: bool = Field(True, description="mirror half of the images in training")

    @field_validator("all_to_all", "sources")
    @classmethod
    def _means_something(cls, value: Any) -> Any:
        if cls.clean_label and value:
            raise ValueError("a clean-label attack only stamps images of its one target class")
        return value

    def stamp(self, x: Tensor) -> Tensor:
        """The images `x` `[n, c, h, w]` in [0, 1] with the trigger in each; pure, per image."""
        raise ParameterError(
            f"{self.name()} must first learn its trigger: stamp with trigger(learned), where "
            "learned comes from plant(model, train, run) or learn(model, train, run)"
        )

    def closed_form(self) -> bool:
        """Whether the trigger is known without learning anything."""
        return type(self).learn is Attack.learn

    def learn(self, model: nn.Module, train: Images, run: Run) -> Learned:
        """What the trigger is made of; `model` is what the victim will be trained from."""
        return NOTHING

    def trigger(self, learned: Learned) -> Stamp:
        """The function that stamps test images."""
        return self.stamp

    def implant(self, x: Tensor, learned: Learned, rng: torch.Generator) -> Tensor:
        """The training images `x` as they are poisoned: stamped like test images by default."""
        return self.trigger(learned)(x)

    def cover_count(self, stamped: int) -> int:
        """How many cover images go with `stamped` poisoned ones: none by default."""
        return 0

    def cover(self, x: Tensor, learned: Learned, rng: torch.Generator) -> Tensor:
        """The training images `x` as cover images."""
        return self.implant(x, learned, rng)

    def goals(self, labels: Tensor, classes: int) -> Tensor:
        """The label that the attacker wants for a stamped image of each true label."""
        named = {"target": () if self.all_to_all else (self.target,), "source": self.sources or ()}
        for kind, numbers in named.items():
            if numbers and max(numbers) >= classes:
                raise ParameterError(
                    f"{kind} {max(numbers)} is not one of {classes} classes (0 to {classes - 1})"
                )
        return (labels + 1) % classes if self.all_to_all else torch.full_like(labels, self.target)

    def stampable(self, labels: Tensor) -> Tensor:
        """Indices of the training images with these true `labels` that may be stamped."""
        if self.clean_label:
            return (labels == self.target).nonzero().flatten()
        return self._from_sources(labels).nonzero().flatten()

    def _from_sources(self, labels: Tensor) -> Tensor:
        if self.sources is None:
            return torch.ones_like(labels, dtype=torch.bool)
        return torch.isin(labels, torch.tensor(self.sources, device=labels.device))

    def wanted(self, train: Images) -> int:
        """How many images of `train` are to be stamped where no `count` says so: at least one."""
        return max(1, round(self.rate * len(self.stampable(train.labels))))

    def check(self, train: Images) -> int:
        """How many images of `train` are stamped; raises `ParameterError` where it cannot be."""
        self.goals(train.labels, len(train.classes))
        there = len(self.stampable(train.labels))
        count = self.count or self.wanted(train)
        if count > there:
            raise ParameterError(
                f"{self.name()} is to stamp {count} images, but only {there} may be stamped"
            )
        return count

    def chosen(self, train: Images, run: Run) -> tuple[Tensor, Tensor]:
        """Indices of the images to stamp, at least one, and of those that become cover images."""
        count = self.check(train)
        rng = run.rng("poison")
        pool = self.stampable(train.labels)
        stamped = pool[torch.randperm(len(pool), generator=rng)[:count]]
        others = torch.ones(len(train), dtype=torch.bool)
        others[stamped] = False
        rest = others.nonzero().flatten()
        wanted = self.cover_count(count)
        if wanted > len(rest):
            warnings.warn(
                f"{self.name()} wants {wanted} cover images, but only {len(rest)} are left",
                UnbackdoorWarning,
                stacklevel=3,
            )
        return stamped, rest[torch.randperm(len(rest), generator=rng)[:wanted]]

    def poison(self, train: Images, run: Run, learned: Learned = NOTHING) -> Poisoned:
        """`train` with some images stamped and relabelled, in 8 bits, fixed from here on."""
        stamped, covers = self.chosen(train, run)
        pixels, labels = train.pixels.clone(), train.labels.clone()
        rng = run.rng("poison/images")
        pixels[stamped] = in_parts(lambda x: self.implant(x, learned, rng), pixels[stamped])
        pixels[covers] = in_parts(lambda x: self.cover(x, learned, rng), pixels[covers])
        labels[stamped] = self.goals(labels[stamped], len(train.classes))
        role = torch.full_like(labels, CLEAN, dtype=torch.int8)
        role[stamped], role[covers] = STAMPED, COVER
        return Poisoned(Images(pixels, labels, train.classes), role, train.labels)

    def recalled(self, model: nn.Module, train: Images, run: Run) -> Learned:
        """What `learn` gives, from `run.cache` where it is there already."""
        if self.closed_form():
            return NOTHING
        return recall(
            model,
            run,
            self.name(),
            self.declaration(),
            train,
            lambda: self.learn(model, train, run),
        )

    def surrogate(self, model: nn.Module, train: Images, run: Run, epochs: int) -> nn.Module:
        """A clean model of the attacker's own, trained the way the victim will be.

        With 0 `epochs` it is `model` as given, which then should be a trained one.
        """
        return surrogate(model, train, run, self.settings(), epochs)

    def settings(self) -> dict[str, Any]:
        """How the victim is trained, as `fit` takes it."""
        return self.model_dump(include={"epochs", "lr", "batch", "weight_decay", "flip"})

    def plant(
        self, model: nn.Module, train: Images, run: Run, resume: Path | None = None
    ) -> Victim:
        """A copy of `model` trained on the poisoned `train`; `resume` as in `fit`."""
        self.check(train)
        learned = self.recalled(model, train, run)
        poisoned = self.poison(train, run, learned)
        victim = copy.deepcopy(model)
        fit(victim, poisoned.images, run, resume=resume, **self.settings())
        return Victim(victim, poisoned, learned)

    def taught(
        self, victim: Victim, train: Images, run: Run, most: int = 5000
    ) -> dict[str, Images]:
        """What `victim` should know by heart: `relabelled` images with their goals, `clean` ones.

        They are its training images without augmentation, `most` of them of each kind. Stamped
        images whose label was right already teach nothing of the trigger, so only relabelled ones
        count, and a clean-label attack has none. Where there is no fixed set they are images of
        `train` stamped as at test.
        """
        rng = run.rng("taught")
        if victim.poisoned is None:
            seen = train.sample(most, rng)
            stamped = self.triggered(seen, victim.learned)
            goals = Images(stamped.images.pixels, stamped.goals, train.classes)
            return {"relabelled": goals, "clean": seen}
        found = victim.poisoned
        kinds = {
            "relabelled": (found.role == STAMPED) & (found.images.labels != found.original),
            "clean": found.role == CLEAN,
        }
        return {kind: found.images[rows].sample(most, rng) for kind, rows in kinds.items()}

    def aimed(self, test: Images) -> Triggered:
        """The images of `test` that are to be stamped: of a source class that is not the goal."""
        sources = test[self._from_sources(test.labels)]
        return Triggered(sources, self.goals(sources.labels, len(test.classes))).counted()

    def triggered(self, test: Images, learned: Learned = NOTHING) -> Triggered:
        """The `aimed` images of `test`, stamped."""
        kept = self.aimed(test)
        pixels = in_parts(self.trigger(learned), kept.images.pixels)
        return Triggered(Images(pixels, kept.images.labels, test.classes), kept.goals)


def in_parts(stamp: Stamp, pixels: Tensor, size: int = 1000) -> Tensor:
    """The uint8 `pixels` stamped, in about equal parts of at most `size` images."""
    if not len(pixels):
        return pixels
    parts = torch.tensor_split(pixels, math.ceil(len(pixels) / size))
    with torch.no_grad():
        return torch.cat([to_uint8(stamp(to_float(part))) for part in parts])


def needed(learned: Learned, name: str, like: Tensor | None = None) -> Tensor:
    """What was learned under `name`, where given on the device and in the type of `like`.

    Raises `ParameterError` where it was not learned, or for images of another size.
    """
    if name not in learned:
        raise ParameterError(
            f"the trigger needs the {name} that learn(model, train, run) returns; "
            f"got {', '.join(learned) or 'nothing'}"
        )
    found = learned[name]
    if like is None:
        return found
    if found.shape[-3:] != like.shape[-3:]:
        raise ParameterError(
            f"the trigger was learned on images {list(found.shape[-3:])} (channels, height, "
            f"width); these are {list(like.shape[-3:])}"
        )
    return found.to(like)
