"""Which class of a model each label is: by the names of the classes, else by their numbers."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.errors import ImagesError, UnbackdoorWarning, listed
from ._source import Raw


def matched(
    source: object, raw: Raw, classes: Sequence[str] | None
) -> tuple[Tensor, tuple[str, ...]]:
    """The labels as indices into `classes`, or into the source's own if none are given."""
    wanted = raw.classes if classes is None else tuple(classes)
    _check_range(source, raw.labels, raw.classes)
    theirs, ours = _keys(raw.classes, wanted)
    if raw.numbered or theirs == ours:
        _check_range(source, raw.labels, wanted)
        return raw.labels, wanted
    shared = set(theirs) & set(ours)
    if not shared:
        return _by_order(source, raw, wanted), wanted
    named = zip(raw.classes, theirs, strict=True)
    if strange := [name for name, compared in named if compared not in shared]:
        raise ImagesError(
            f"{source} has the class {strange[0]!r}, which is none of the model's: {listed(wanted)}"
        )
    places = {one: place for place, one in reversed(list(enumerate(ours)))}  # the first of each
    return torch.tensor([places[one] for one in theirs])[raw.labels], wanted


def _keys(theirs: Sequence[str], ours: Sequence[str]) -> tuple[list[str], list[str]]:
    """What names are compared by: themselves, or without case, `_` and `-` if all fit only then."""
    exact = [key(name) for name in theirs], [key(name) for name in ours]
    loose = [_loose(name) for name in theirs], [_loose(name) for name in ours]
    told = set(exact[0]) <= set(exact[1]) or not set(loose[0]) <= set(loose[1])
    if told or any(len(set(keys)) < len(keys) for keys in loose):
        return exact
    return loose


def _loose(name: str) -> str:
    return " ".join(re.split(r"[\s_-]+", key(name.strip()).casefold()))


def _by_order(source: object, raw: Raw, wanted: Sequence[str]) -> Tensor:
    """The labels by the order of the classes: the only evidence where no name is shared."""
    if len(raw.classes) != len(wanted):
        raise ImagesError(
            f"{source} has {len(raw.classes)} classes ({listed(raw.classes)}), the model "
            f"{len(wanted)} ({listed(wanted)}): no name is shared, so nothing tells which is "
            "which. Name the model's classes in their order (--classes A,B,...)"
        )
    if not are_numbers([key(name) for name in wanted]):
        warnings.warn(
            f"{source}: none of its classes ({listed(raw.classes)}) is one of the model's "
            f"({listed(wanted)}); they are matched by their order",
            UnbackdoorWarning,
            stacklevel=6,
        )
    return raw.labels


def key(name: str) -> str:
    """What two spellings of a class have in common: `07` and `7` are one."""
    return str(int(name)) if name.isascii() and name.isdecimal() and len(name) < 10 else name


def are_numbers(keys: Sequence[str]) -> bool:
    return list(keys) == [str(label) for label in range(len(keys))]


def _check_range(source: object, labels: Tensor, classes: Sequence[str]) -> None:
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(classes):
        raise ImagesError(
            f"{source}: labels run from {int(labels.min())} to {int(labels.max())}, but there are "
            f"{len(classes)} classes (0 to {len(classes) - 1})"
        )
