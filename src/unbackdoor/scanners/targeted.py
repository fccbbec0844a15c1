"""The smallest change of all images that sends them to a class, for each class: does one lead?"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from ..core.images import Images
from ..core.method import source
from ..core.run import Run
from .base.scanner import Finding, Scanner
from .base.ways import Search, Seen, likeliest, seen


class Targeted(Scanner):
    """Looks for a class that a much smaller change of all images leads to than to any other.

    One change for all images, in an L2 ball, for each class. The radius grows from `smallest` by
    the factor `growth`; at each radius, `steps` steps make the class likelier on one half of the
    images, and the other half shows what share goes there. A class's number is minus the logarithm
    of the radius at which it draws the share `reach`. The score is the lead of the first class
    over the second, the logarithm of the ratio of their radii: it compares the classes of one
    model with each other, so it is the same for networks that change easily and those that do not.

    The search ends with the second class. Of more than `most_classes` classes only those are tried
    that are likeliest on the images of others. Radii are for images of 3x32x32 and grow with the
    root of the number of values.
    """

    paper: ClassVar[str] = (
        "this project's own; the smallest trigger of each class after Neural Cleanse (Wang et al., "
        "IEEE S&P 2019), universal perturbations after Moosavi-Dezfooli et al., CVPR 2017, "
        "arXiv 1610.08401"
    )
    limits: ClassVar[str] = (
        "blind to a small patch of high contrast, whose L2 length is as large as that of natural "
        "changes, to triggers that are no added change, such as warps, to two targets that are as "
        "easy as each other, to backdoors with a target for every class, and, with more than "
        "`most_classes` classes, to a target that is unlikely on images of other classes"
    )
    statistic: ClassVar[str] = "minus the logarithm of the radius of the change that leads here"
    compares_classes: ClassVar[bool] = True

    images: int = Field(
        40,
        ge=1,
        description="images that a change is sought on, at most",
        json_schema_extra=source("ours: few, for time"),
    )
    held_out: int = Field(
        60,
        ge=1,
        description="other images that its share is counted on, at most",
        json_schema_extra=source("ours: a share to within a few percent"),
    )
    smallest: float = Field(
        0.25,
        gt=0,
        description="first radius, L2, pixels in [0, 1]",
        json_schema_extra=source("ours: below any change that a clean model obeys"),
    )
    growth: float = Field(
        math.sqrt(2),
        gt=1,
        description="factor from one radius to the next",
        json_schema_extra=source("ours: between two radii the share is interpolated"),
    )
    radii: int = Field(
        9,
        ge=1,
        description="number of radii that are tried",
        json_schema_extra=source("ours: up to a length that any model obeys"),
    )
    steps: int = Field(
        4,
        ge=1,
        description="steps of gradient ascent at each radius",
        json_schema_extra=source("ours: few, for time; each radius goes on from the last one"),
    )
    reach: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of the other classes' images that counts as found",
        json_schema_extra=source("ours: half of the images"),
    )
    most_classes: int = Field(
        20,
        ge=2,
        description="classes that are tried, at most",
        json_schema_extra=source("ours: for time"),
    )

    def look(self, model: nn.Module, clean: Images, run: Run) -> Finding:
        """The radius of each class, until two are found."""
        search = Search(
            **{name: getattr(self, name) for name in Search.__dataclass_fields__}  # the same fields
        )
        half = max(1, len(clean) // 2)
        sought, counted = (seen(model, part, run) for part in (clean[:half], clean[half:]))
        shown = counted if len(counted.x) else sought
        first = Seen(shown.x[: self.held_out], shown.answers[: self.held_out])
        labels = likeliest(model, first, self.most_classes, run)
        with run.stage("targeted change", self.radii * len(labels)) as advance:
            ways = search.gone(model, (sought, counted), labels, 2, run, advance)
        # A class that was not tried stands as one that no change led to.
        radii = torch.full((len(clean.classes),), search.radius(self.radii))
        for way in ways:
            radii[way.label] = search.reached(way)
        smallest, second = radii.sort().values[:2].tolist()
        lead = min(ways, key=lambda way: float(radii[way.label]))
        return Finding(
            -radii.log(),
            math.log(second / smallest),
            change=lead.away[0].cpu(),
            reach=lead.shares[-1],
            notes={"radius": smallest, "second_radius": second},
        )
