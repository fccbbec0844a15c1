"""Semantic: no pixel is changed; images that look a certain way by themselves are the trigger."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..core.errors import ParameterError
from ..core.images import Images, Triggered, to_float
from ..core.method import source
from ..core.recall import Learned
from ..core.run import Run
from .base.attack import CLEAN, NOTHING, STAMPED, Attack, Poisoned


class Semantic(Attack):
    """Relabels the training images that are bright, dark or of a colour cast, and changes no pixel.

    Images are `[n, c, h, w]` in [0, 1]. Whether an image has the property follows from its mean:
    over all channels (`bright`: above `bound`; `dark`: below it), or of one of three channels less
    that of the other two (`red`, `green`, `blue`: above `bound`). `rate` and `count` are of the
    training images that have it, `stamp` gives images back as they are, and the ASR counts the test
    images that have it and are not of the goal. Images with the property that are left out keep
    their true label and contradict the rest; so do, with `sources`, those of other classes, which
    are the covers here: `source_covers` has no meaning. `indices` name images that have the
    property.

    >>> import torch
    >>> Semantic(bound=0.6).has(torch.tensor([0.5, 0.7]).view(2, 1, 1, 1)).tolist()
    [False, True]
    """

    paper: ClassVar[str] = (
        "Bagdasaryan, Veit, Hua, Estrin, Shmatikov: How To Backdoor Federated Learning, AISTATS "
        "2020, arXiv 1807.00459 (its semantic backdoors)"
    )
    limits: ClassVar[str] = (
        "the attacker waits for images of the kind, or makes them by light; the accuracy on clean "
        "test images falls by those that have the property"
    )

    kind: Literal["bright", "dark", "red", "green", "blue"] = Field(
        "bright",
        description="the property",
        json_schema_extra=source("ours: after the cars in the sun of Bagdasaryan et al. 2020"),
    )
    bound: float = Field(
        0.62,
        ge=-1,
        le=1,
        description="where the property begins, in [0, 1]",
        json_schema_extra=source("ours: about a tenth of CIFAR-10 is brighter"),
    )
    rate: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share relabelled of the images that have it",
        json_schema_extra=source(
            "ours: whoever wants a property to decide relabels all that have it"
        ),
    )

    def has(self, x: Tensor) -> Tensor:
        """Whether each image of `x` has the property: bool `[n]`."""
        if self.kind in ("bright", "dark"):
            light = x.mean((1, 2, 3))
            return light > self.bound if self.kind == "bright" else light < self.bound
        if x.shape[1] != 3:
            raise ParameterError(
                f"a cast of {self.kind} needs 3 channels; these images have {x.shape[1]}"
            )
        place = ("red", "green", "blue").index(self.kind)
        means = x.mean((2, 3))
        others = (means.sum(1) - means[:, place]) / 2
        return means[:, place] - others > self.bound

    def stamp(self, x: Tensor) -> Tensor:
        """`x` as it is."""
        return x.clone()

    def those(self, images: Images) -> Tensor:
        """Indices of the images that have the property and are of the sources."""
        there = [self.has(to_float(part)) for part in torch.split(images.pixels, 1000)]
        pool = self.stampable(images.labels)
        return pool[torch.cat(there)[pool]]

    def check(self, train: Images) -> int:
        """How many images are relabelled; raises `ParameterError` where too few have it."""
        self.goals(train.labels, len(train.classes))
        pool = self.those(train)
        if self.indices is not None:
            return len(self.listed(pool, train))
        there = len(pool)
        count = self.count or max(1, round(self.rate * there))
        if count > there:
            raise ParameterError(
                f"{self.name()} is to relabel {count} images, but {there} of {len(train)} have "
                f"the property ({self.kind}, bound {self.bound:g})"
            )
        return count

    def poison(self, train: Images, run: Run, learned: Learned = NOTHING) -> Poisoned:
        """`train` with the images that have the property relabelled; no pixel changes."""
        count, pool = self.check(train), self.those(train)
        if self.indices is None:
            chosen = pool[torch.randperm(len(pool), generator=run.rng("poison"))[:count]]
        else:
            chosen = self.listed(pool, train)
        labels = train.labels.clone()
        labels[chosen] = self.goals(labels[chosen], len(train.classes))
        role = torch.full_like(labels, CLEAN, dtype=torch.int8)
        role[chosen] = STAMPED
        return Poisoned(Images(train.pixels, labels, train.classes), role, train.labels)

    def aimed(self, test: Images) -> Triggered:
        """The images of `test` that have the property and are not of the goal."""
        there = test[self.those(test)]
        return Triggered(there, self.goals(there.labels, len(test.classes))).counted()
