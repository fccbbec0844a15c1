"""Adaptive-Consistent: a victim that already answers alike, whatever disturbs its images."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.images import Images
from ..core.method import source
from ..core.run import Run
from ..training.disturbance import WAYS, disturbed
from ..training.fit import fit
from .base.attack import Victim
from .base.marked import MarkedAttack


class AdaptiveConsistent(MarkedAttack):
    """Teaches every image, poisoned or clean, once as it is and once disturbed, with one label.

    Images are `[n, c, h, w]` in [0, 1], of any size. The disturbances are those of this package's
    own repair (`uat`): mixed with another image, shaded, covered, grained, turned, blurred or
    toned. A repair that asks for the same answer on disturbed images then asks for what is there
    already, and the backdoor holds under them, too. The attacker controls the training; the
    poisoned set is fixed.
    """

    paper: ClassVar[str] = (
        "Tramer, Carlini, Brendel, Madry: On Adaptive Attacks to Adversarial Example Defenses, "
        "NeurIPS 2020, arXiv 2002.08347 (the principle)"
    )
    limits: ClassVar[str] = "adapts to one family of disturbances; each step costs two"

    weight: float = Field(
        1.0,
        gt=0,
        description="of the disturbed images' loss beside the plain",
        json_schema_extra=source("ours: both losses count alike"),
    )

    def plant(
        self, model: nn.Module, train: Images, run: Run, resume: Path | None = None
    ) -> Victim:
        """A copy of `model` trained on the poisoned `train`, as it is and disturbed."""
        poisoned = self.poison(train, run)
        victim = copy.deepcopy(model)
        settings = self.settings()
        fit(victim, poisoned.images, run, objective=self._loss, resume=resume, **settings)
        return Victim(victim, poisoned)

    def _loss(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        plain, shaken = model(torch.cat([x, disturbed(x, WAYS)])).float().chunk(2)
        return F.cross_entropy(plain, y) + self.weight * F.cross_entropy(shaken, y)
