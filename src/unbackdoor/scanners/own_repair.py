"""The model against its own repair: does the change that leads to a class still work?"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from ..core.images import Images
from ..core.method import build, source
from ..core.modules import copied
from ..core.run import Run
from ..defenses.base.defense import Defense
from .base.scanner import Finding, Scanner
from .base.ways import Search, Seen, likeliest, seen, share

REPAIR = "uat"
"""The defense that repairs the copy."""


class OwnRepair(Scanner):
    """Repairs a copy of the model, and tries what misled the model on the copy.

    For the few classes that the smallest changes of all images lead to (as `targeted` finds them),
    it counts the share of the images that the same change still sends there in the repaired copy.
    A backdoor is gone then; a way between natural classes loses only a part. The score is the part
    that the first class lost, less what the others lost on average. The copy is repaired by
    universal adversarial training (`uat`) on the same images, shortened.
    """

    paper: ClassVar[str] = (
        "this project's own; it repairs by universal adversarial training (Shafahi et al., "
        "AAAI 2020, arXiv 1811.11304)"
    )
    limits: ClassVar[str] = (
        "in development: tried on few small networks; blind where the repair leaves the backdoor, "
        "and where the first class by the length of its change is not the target"
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
        description="other images that shares are counted on, at most",
        json_schema_extra=source("ours: a share to within a few percent"),
    )
    compared: int = Field(
        4,
        ge=2,
        description="classes that are compared, those that the smallest changes lead to",
        json_schema_extra=source("ours: the suspect, and three others to compare with"),
    )
    most_classes: int = Field(
        20,
        ge=2,
        description="classes that are tried, at most",
        json_schema_extra=source("ours: for time"),
    )
    repair_images: int = Field(
        4000,
        ge=1,
        description="images that the repair sees, each counted as often as it comes",
        json_schema_extra=source("ours: short, for time"),
    )

    def look(self, model: nn.Module, clean: Images, run: Run) -> Finding:
        """What the changes do to the model and to its repaired copy."""
        search = Search(self.images, self.held_out, 0.25, math.sqrt(2), 9, 4, 0.5)
        half = max(1, len(clean) // 2)
        sought, counted = (seen(model, part, run) for part in (clean[:half], clean[half:]))
        shown = counted if len(counted.x) else sought
        first = Seen(shown.x[: self.held_out], shown.answers[: self.held_out])
        labels = likeliest(model, first, self.most_classes, run)
        with run.stage("targeted change", search.radii * len(labels)) as advance:
            ways = search.gone(model, (sought, counted), labels, self.compared, run, advance)
        radii = torch.full((len(clean.classes),), search.radius(search.radii))
        for way in ways:
            radii[way.label] = search.reached(way)
        nearest = sorted(ways, key=lambda way: float(radii[way.label]))[: self.compared]
        copy = self._repaired(model, clean, run)
        now = seen(copy, clean[half:] if len(counted.x) else clean[:half], run)
        lost = []
        for way in nearest:
            both = (shown.answers != way.label) & (now.answers != way.label)
            x = shown.x[both][: self.held_out]
            before, after = (share(net, x, way, run) for net in (model, copy))
            lost.append(1 - after / before if before else 0.0)
        others = sum(lost[1:]) / max(1, len(lost) - 1)
        return Finding(
            -radii.log(),
            lost[0] - others,
            change=nearest[0].away[0].cpu(),
            reach=nearest[0].shares[-1],
            notes={"lost": lost[0], "lost_by_others": others},
        )

    def _repaired(self, model: nn.Module, clean: Images, run: Run) -> nn.Module:
        given = {"epochs": 1, "enough_images": self.repair_images, "settling": 1}
        defense = build("defense", REPAIR, given)
        assert isinstance(defense, Defense)
        copy = defense.repair(copied(model).requires_grad_(True), clean, run).model
        return copy.to(run.device).eval().requires_grad_(False)
