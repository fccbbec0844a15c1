"""The smallest change of all images that sends them to a class, for each class: does one lead?"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from ..core.images import Images
from ..core.method import source
from ..core.run import Run
from .base.changes import KINDS
from .base.scanner import Finding, Scanner
from .base.ways import Search, Seen, Way, likeliest, seen


class Targeted(Scanner):
    """Looks for a class that a much smaller change of all images leads to than to any other.

    Three kinds of change are sought, one change for all images and each class: one that is added
    (in an L2 ball), a square patch, and a smooth warp. It is fitted at one size after the other on
    one half of the images, and the other half shows what share goes to the class. A class's number
    is minus the logarithm of the size at which it draws the share `reach`. The lead of the first
    class over the second, the logarithm of the ratio of their sizes, compares the classes of one
    model with each other, so it is the same for networks that change easily and those that do not.
    The score is the largest lead of the kinds.

    Sizes end where clean models obey, too; a class that was not reached stands at the last one.
    Each search ends with the second class. Of more than `most_classes` classes only those are tried
    that are likeliest on the images of others. Sizes are for images of 32x32 and grow with them.
    """

    paper: ClassVar[str] = (
        "this project's own; the smallest trigger of each class after Neural Cleanse (Wang et al., "
        "IEEE S&P 2019), universal perturbations after Moosavi-Dezfooli et al., CVPR 2017, "
        "arXiv 1610.08401"
    )
    limits: ClassVar[str] = (
        "blind to triggers that are none of the three kinds, such as rotations, to two targets "
        "that are as easy as each other, to backdoors with a target for every class, and, with "
        "more than `most_classes` classes, to a target that is unlikely on images of other classes"
    )
    statistic: ClassVar[str] = "minus the logarithm of the size of the change that leads here"
    compares_classes: ClassVar[bool] = True

    changes: tuple[Literal["added", "patch", "warp"], ...] = Field(
        ("added", "patch", "warp"),
        min_length=1,
        description="kinds of change that are sought",
        json_schema_extra=source("ours: the kinds of most triggers that are known"),
    )
    images: int = Field(
        40,
        ge=1,
        description="images that a change is sought on, at most; of larger ones than 32x32 fewer",
        json_schema_extra=source("ours: few, for time"),
    )
    held_out: int = Field(
        60,
        ge=1,
        description="other images that its share is counted on, at most; of larger ones fewer",
        json_schema_extra=source("ours: a share to within a few percent"),
    )
    reach: float = Field(
        0.85,
        gt=0,
        le=1,
        description="share of the other classes' images that counts as found",
        json_schema_extra=source("ours: a backdoor draws nearly all, a natural change only some"),
    )
    most_classes: int = Field(
        20,
        ge=2,
        description="classes that are tried, at most",
        json_schema_extra=source("ours: for time"),
    )

    def look(self, model: nn.Module, clean: Images, run: Run) -> Finding:
        """The largest lead of a class, of the kinds of change."""
        search = Search(self.images, self.held_out, self.reach)
        half = max(1, len(clean) // 2)
        sought, counted = (seen(model, part, run) for part in (clean[:half], clean[half:]))
        shown = counted if len(counted.x) else sought
        first = Seen(shown.x[: self.held_out], shown.answers[: self.held_out])
        labels = likeliest(model, first, self.most_classes, run)
        found = {}
        for name in self.changes:
            kind = KINDS[name]
            with run.stage(f"targeted change: {name}", len(kind.sizes) * len(labels)) as advance:
                ways = search.gone(model, kind, (sought, counted), labels, run, advance)
            found[name] = self._lead(ways, len(clean.classes), sought)
        leads = {f"lead_{name}": lead.score for name, lead in found.items()}
        best = max(found.values(), key=lambda lead: lead.score)
        return replace(best, notes={**best.notes, **leads})

    def _lead(self, ways: list[Way], classes: int, sought: Seen) -> Finding:
        """What one kind of change found."""
        # A class that was not tried stands as one that no change led to.
        sizes = torch.full((classes,), ways[0].change.sizes[-1])
        for way in ways:
            sizes[way.label] = way.size(self.reach)
        smallest, second = sizes.sort().values[:2].tolist()
        lead = min(ways, key=lambda way: float(sizes[way.label]))
        return Finding(
            -sizes.log(),
            math.log(second / smallest),
            reach=lead.shares[-1],
            notes={"size": smallest, "second_size": second},
            **lead.change.shown(sought.x),
        )
