"""The images of a data set, read once in a process, and how far a linear classifier comes on them.

Images are never written to, so all cells share them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import data
from ..core.errors import ImagesError, ParameterError
from ..core.images import Images, to_float
from ..core.measure import Rate
from ..core.run import Run

MOST_LINEAR = 5000
SIDE = 16
"""A linear classifier sees at most so many images, of at most so many pixels a side."""


@dataclass(frozen=True, eq=False)
class Shelf:
    """The images of a data set: every training image, the victim's, the defender's, the test's.

    Where the test images are a share of the training file, `every` is without them.
    """

    every: Images
    train: Images
    pool: Images
    test: Images

    def budget(self, budget: int | float, run: Run, pool: Images | None = None) -> Images:
        """The defender's clean images: a count, or below 1 a share; smaller ones lie in larger.

        They come from the defender's `pool`, if no other is given.
        """
        pool = self.pool if pool is None else pool
        wanted = budget if isinstance(budget, int) else max(1, round(budget * len(self.every)))
        if wanted > len(pool):
            raise ImagesError(
                f"a budget of {budget:g} is {wanted} clean images; there are {len(pool)}"
            )
        return pool.sample(int(wanted), run.rng("budget"))


def shelf(
    told: Mapping[str, Any],
    channels: int | None,
    run: Run,
    *,
    download: bool,
    classes: Sequence[str] | None = None,
) -> Shelf:
    """The images that the declaration of a data set tells of, in `channels` where it is given.

    `classes` are the model's own, where it knows their names.
    """
    names = tuple(classes) if classes else None
    judge = told.get("judge", 0)
    sources = (expanded(told["train"]), expanded(told["train"] if judge else told["test"]))
    train, test = _read(*sources, told["size"], channels, download, names)
    if judge:
        test, train = train.split(round(judge * len(train)), run.rng("judge"))
        if not len(test) or not len(train):
            raise ImagesError(f"judge = {judge:g} leaves {len(test)} images to judge by")
    if not told["reserve"]:
        return Shelf(train, train, train, test)
    kept = round(told["reserve"] * len(train))
    pool, rest = train.split(kept, run.rng("reserve"))
    return Shelf(train, rest, pool, test)


def expanded(text: str) -> str:
    """The path or name `text`, its `$NAME` replaced by variables of the environment."""
    found = os.path.expandvars(text)
    if "$" in found:
        raise ParameterError(f"{text}: set the environment variable that it names")
    return found


@lru_cache(maxsize=2)
def _read(
    train: str,
    test: str,
    size: int | None,
    channels: int | None,
    download: bool,
    classes: tuple[str, ...] | None,
) -> tuple[Images, Images]:
    first = data.open_images(
        train,
        size=(size, size) if size else None,
        channels=channels,
        classes=classes,
        download=download,
    )
    height, width = first.pixels.shape[2:]
    second = data.open_images(
        test,
        size=(height, width),
        channels=first.shape[0],
        classes=first.classes,
        download=download,
    )
    if not len(first) or not len(second):
        raise ImagesError(f"{train if not len(first) else test} holds no images")
    return first, second


def others(source: str, like: Images, *, download: bool) -> Images:
    """The images of another source, in the shape and with the classes of `like`."""
    return _others(expanded(source), like.shape, like.classes, download)


@lru_cache(maxsize=1)
def _others(
    source: str, shape: tuple[int, int, int], classes: tuple[str, ...], download: bool
) -> Images:
    return data.open_images(
        source, size=shape[1:], channels=shape[0], classes=classes, download=download
    )


def linear(train: Images, test: Images) -> Rate:
    """How many of `test` ridge regression on the pixels gets right: what any network must beat.

    One-hot targets, a ridge of a hundredth of the mean second moment, at most 5,000 images of
    `train`.
    """
    rng = torch.Generator().manual_seed(0)
    seen = train.sample(MOST_LINEAR, rng)
    x, wanted = _flat(seen), F.one_hot(seen.labels, len(train.classes)).double()
    gram = x.T @ x
    gram.diagonal().add_(0.01 * float(gram.diagonal().mean()))
    weights = torch.linalg.solve(gram, x.T @ wanted)
    hits = 0
    for start in range(0, len(test), MOST_LINEAR):
        part = test[start : start + MOST_LINEAR]
        hits += int(((_flat(part) @ weights).argmax(1) == part.labels).sum())
    return Rate(hits, len(test))


def _flat(images: Images) -> Tensor:
    """Pixels as rows `[n, features + 1]` around 0, the last of them 1."""
    x = to_float(images.pixels)
    if max(x.shape[2:]) > SIDE:
        x = F.adaptive_avg_pool2d(x, SIDE)
    flat = x.flatten(1).double() - 0.5
    return torch.cat([flat, torch.ones(len(flat), 1, dtype=torch.float64)], 1)
