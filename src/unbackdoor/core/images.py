"""Images: uint8 at rest, float in [0, 1] in flight."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .errors import ImagesError


def to_float(pixels: Tensor) -> Tensor:
    """The uint8 `pixels` as float32 in [0, 1]."""
    return pixels.to(torch.float32).div_(255)


def to_uint8(x: Tensor) -> Tensor:
    """The float images `x` in [0, 1] as uint8: clipped, then rounded to the nearest level."""
    return x.clamp(0, 1).mul(255).round_().to(torch.uint8)


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images of one size.

    `pixels` is uint8 `[n, c, h, w]`, `labels` int64 `[n]`, each an index into `classes`.
    `mirrored` says whether a mirror image is of its class still, as far as the source tells.
    Raises `ImagesError` where these do not fit together.
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    mirrored: bool = True

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 4:
            raise ImagesError(
                f"pixels must be uint8 [n, c, h, w], got {self.pixels.dtype} "
                f"{list(self.pixels.shape)}"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.pixels.shape[:1]:
            raise ImagesError(
                f"labels must be int64 [{len(self.pixels)}], got {self.labels.dtype} "
                f"{list(self.labels.shape)}"
            )
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(
            self.classes
        ):
            raise ImagesError(
                f"labels run from {int(self.labels.min())} to {int(self.labels.max())}, "
                f"but there are {len(self.classes)} classes"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor | slice) -> Images:
        return replace(self, pixels=self.pixels[indices], labels=self.labels[indices])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        c, h, w = self.pixels.shape[1:]
        return c, h, w

    def sample(self, n: int, rng: torch.Generator) -> Images:
        """`n` images drawn without replacement; all of them, shuffled, if there are fewer."""
        return self[torch.randperm(len(self), generator=rng)[:n]]

    def split(self, n: int, rng: torch.Generator) -> tuple[Images, Images]:
        """`n` images drawn without replacement, and the rest."""
        order = torch.randperm(len(self), generator=rng)
        return self[order[:n]], self[order[n:].sort().values]

    def balanced(self, rng: torch.Generator) -> Images:
        """As many images, an equal number (give or take one) of each class that is there.

        Large classes lose some, drawn by `rng`; small ones repeat theirs. Classes of equal size
        lose and repeat nothing.
        """
        order = torch.randperm(len(self), generator=rng)
        present, counts = torch.unique(self.labels, return_counts=True)
        share, left = divmod(len(self), max(1, len(present)))
        sizes = torch.full_like(counts, share)
        sizes[counts.argsort(descending=True, stable=True)[:left]] += 1
        drawn = []
        for label, count, size in zip(present, counts, sizes, strict=True):
            own = order[self.labels[order] == label]
            drawn.append(own[torch.arange(int(size)) % int(count)])
        return self[torch.cat(drawn)] if drawn else self

    def batches(
        self, size: int, rng: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of (x float `[b, c, h, w]` in [0, 1], y int64 `[b]`), shuffled by `rng`.

        They are of about equal size, at most `size`: a last batch of few images would upset the
        running statistics of norms.
        """
        order = torch.arange(len(self)) if rng is None else torch.randperm(len(self), generator=rng)
        parts = max(1, math.ceil(len(self) / size))
        for part in torch.tensor_split(order, parts):
            yield to_float(self.pixels[part]), self.labels[part]


def overlap(clean: Images, test: Images) -> int:
    """How many of the `test` images are among the `clean` ones, pixel by pixel."""
    known = {image.numpy().tobytes() for image in clean.pixels}
    return sum(image.numpy().tobytes() in known for image in test.pixels)


@dataclass(frozen=True, eq=False)
class Triggered:
    """Triggered test images with their true labels, and the label the attacker wants for each.

    `goals` is int64 `[n]`. An image whose true class is its goal proves nothing: `counted` leaves
    it out.
    """

    images: Images
    goals: Tensor

    def counted(self) -> Triggered:
        """Only the images whose true class is not their goal."""
        keep = self.goals != self.images.labels
        return Triggered(self.images[keep], self.goals[keep])
