"""What attacks take and give: roles of images, poisoned sets, victims, putting a trigger on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn

from ...core.errors import ParameterError
from ...core.images import Images, Triggered, to_float, to_uint8
from ...core.measure import Rate
from ...core.recall import Learned

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

    def rows(self, role: int = STAMPED) -> list[int]:
        """The numbers of the training images of a role, counted from 0."""
        return (self.role == role).nonzero().flatten().tolist()

    def indices(self, numbers: Tensor | None = None) -> dict[str, list[int]]:
        """The `rows` of the changed images by the names of their roles.

        `numbers` int64 `[n]` are those that the images have in their source, if others.
        """
        found = {ROLES[role]: self.rows(role) for role in (STAMPED, COVER)}
        return {
            role: rows if numbers is None else numbers[rows].tolist()
            for role, rows in found.items()
        }


@dataclass(frozen=True, eq=False)
class Victim:
    """A model with a backdoor, the training set that put it there, and what was learned for it.

    `poisoned` is None where the attack controlled the training and no fixed set exists;
    `unbackdoor.attack` adds the rest: `triggered` are test images with the trigger, where it was
    given some, and `elsewhere` those of a source-specific attack whose class is no source. `taught`
    says how many of its training images the victim learned, by their kind.
    """

    model: nn.Module
    poisoned: Poisoned | None
    learned: Learned = field(default_factory=dict)
    triggered: Triggered | None = None
    elsewhere: Triggered | None = None
    taught: Mapping[str, Rate] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Poison:
    """Poisoned data without a victim: the training set, and test images with the trigger.

    `triggered` is None where no test images were given. `learned` is what a learned trigger is
    made of. `elsewhere` are triggered test images whose class is no source of a source-specific
    attack.
    """

    poisoned: Poisoned
    triggered: Triggered | None
    learned: Learned
    elsewhere: Triggered | None = None


def in_parts(stamp: Stamp, pixels: Tensor, size: int = 1000) -> Tensor:
    """The uint8 `pixels` with the trigger, in about equal parts of at most `size` images."""
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


def numbers_in(path: Path) -> Tensor:
    """The numbers int64 `[n]` in a file: one a line, or an array of integers in `.npy`.

    Raises `ParameterError` for what is no such file, and for a number that is there twice.
    """
    try:
        if path.suffix == ".npy":
            found = np.load(path, allow_pickle=False).ravel()
        else:
            found = np.array([int(line) for line in path.read_text(encoding="utf-8").split()])
    except (OSError, ValueError) as error:
        raise ParameterError(f"{path} is no list of numbers: {error}") from None
    if found.size and not np.issubdtype(found.dtype, np.integer):
        raise ParameterError(f"{path} must hold whole numbers, got {found.dtype}")
    if len(np.unique(found)) < found.size or not found.size:
        raise ParameterError(f"{path} holds no numbers, or one of them twice")
    return torch.from_numpy(found.astype(np.int64))
