"""Adaptive-Flat: a backdoor in a flat minimum, where sharpness-aware repairs find no slope."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import ClassVar

from pydantic import Field
from torch import nn

from ..core.images import Images
from ..core.method import source
from ..core.modules import statistics_kept
from ..core.run import Run
from ..training.fit import fit
from ..training.sharpness import SharpnessAwareSGD
from .base.attack import Victim
from .base.marked import MarkedAttack


class AdaptiveFlat(MarkedAttack):
    """Trains on the poisoned images by adaptive sharpness-aware steps, as FT-SAM repairs.

    Images are `[n, c, h, w]` in [0, 1], of any size. The loss of poisoned images is then low all
    around the weights, so that steps which look for the worst point nearby do not leave it. The
    attacker controls the training; the poisoned set is fixed. The norms' running statistics come
    from the first of a step's two passes.
    """

    paper: ClassVar[str] = (
        "the steps: Kwon, Kim, Park, Choi: ASAM, ICML 2021, arXiv 2102.11600; adaptive to FT-SAM, "
        "Zhu et al., ICCV 2023, arXiv 2304.11823"
    )
    limits: ClassVar[str] = "each step costs two; a large rho keeps low rates from being learned"

    rho: float = Field(
        1.0,
        gt=0,
        description="radius of the adaptive step, in relative weight norm",
        json_schema_extra=source("Kwon et al. 2021 (ASAM): 0.5 to 1 for CIFAR; the upper end"),
    )

    def plant(
        self, model: nn.Module, train: Images, run: Run, resume: Path | None = None
    ) -> Victim:
        """A copy of `model` trained on the poisoned `train` by sharpness-aware steps."""
        poisoned = self.poison(train, run)
        victim = copy.deepcopy(model)
        fit(
            victim,
            poisoned.images,
            run,
            optimizer=lambda parameters: SharpnessAwareSGD(
                parameters,
                rho=self.rho,
                second_pass=lambda: statistics_kept(victim),
                lr=self.lr,
                weight_decay=self.weight_decay,
            ),
            resume=resume,
            **self.settings(),
        )
        return Victim(victim, poisoned)
