"""One change of all images that harms the model: how small it is, and where it sends them."""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import Field
from torch import nn

from ..core.images import Images, to_float
from ..core.method import source
from ..core.run import Run
from .base.scanner import Finding, Scanner
from .base.small_change import Ladder, smallest_change


class Universal(Scanner):
    """Looks for one small change of all images that sends them to one class, whichever it is.

    The change is added to every image and stays in an L2 ball. Its radius grows from `smallest` by
    the factor `growth`; at each radius, `steps` steps raise the loss on the model's own answers,
    and no class is asked for. A backdoored model often follows such a change to its target, at a
    radius at which a clean model keeps its answers. The score is minus the logarithm of the radius
    at which one class draws the share `reach` of the other classes' images. Of `starts` searches,
    each from its own start and on its own part of the images, the smallest radius counts.

    The cost does not depend on the number of classes. Radii are for images of 3x32x32 and grow
    with the root of the number of values.
    """

    paper: ClassVar[str] = (
        "this project's own; universal perturbations after Moosavi-Dezfooli et al., CVPR 2017, "
        "arXiv 1610.08401"
    )
    limits: ClassVar[str] = (
        "clean models have universal perturbations, too: only the radius tells; a search can end "
        "at another class than the target; blind to triggers that are no small added change, such "
        "as warps, and to backdoors with a target for every class"
    )
    statistic: ClassVar[str] = "share of the other classes' images that the change sends here"

    images: int = Field(
        192,
        ge=3,
        description="largest number of clean images in all",
        json_schema_extra=source("ours: a part for each search"),
    )
    starts: int = Field(
        3,
        ge=1,
        description="searches, each on its own part of the images",
        json_schema_extra=source("ours: one search can end at another class"),
    )
    smallest: float = Field(
        0.35,
        gt=0,
        description="first radius, L2, pixels in [0, 1]",
        json_schema_extra=source("ours: below any change that a clean model obeys"),
    )
    growth: float = Field(
        math.sqrt(2),
        gt=1,
        description="factor from one radius to the next",
        json_schema_extra=source("ours: a score to within a factor of the root of 2"),
    )
    radii: int = Field(
        9,
        ge=1,
        description="number of radii that are tried",
        json_schema_extra=source("ours: up to a length that any model obeys"),
    )
    steps: int = Field(
        8,
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

    def look(self, model: nn.Module, clean: Images, run: Run) -> Finding:
        """The smallest change of several searches."""
        used, rng = clean[: self.images], run.rng("start")
        ladder = Ladder(self.smallest, self.growth, self.radii, self.steps, self.reach)
        found = []
        with run.stage("universal perturbation", self.starts * self.radii * self.steps) as advance:
            for start in range(min(self.starts, len(used))):
                x = to_float(used[slice(start, None, self.starts)].pixels).to(run.device)
                found.append(smallest_change(model, x, ladder, run, rng, advance))
        best = min(found, key=lambda change: change.radius)
        return Finding(
            best.shares,
            -math.log(best.radius),
            change=best.away,
            reach=float(best.shares.max()),
            notes={"radius": best.radius},
        )
