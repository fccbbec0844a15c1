"""FT-SAM: fine-tuning into a flat minimum, which shrinks the weights the backdoor needs."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import nn

from ..core.images import Images
from ..core.method import source
from ..core.modules import statistics_kept
from ..core.run import Run
from ..training.fit import cross_entropy
from ..training.sharpness import SharpnessAwareSGD
from .base.defense import Repair
from .base.needs import Need
from .base.plain import Plain


class FTSAM(Plain):
    """Fine-tunes with adaptive sharpness-aware minimization (SAM).

    Both passes of a step see the same augmented batch; the norms' running statistics come from
    the first alone. The clean images are `[n, c, h, w]` uint8 with true labels; where their classes
    differ in size they are drawn to equal sizes, as many in all. The last epoch is the result.
    """

    paper: ClassVar[str] = (
        "Zhu, Wei, Shen, Fan, Wu: Enhancing Fine-Tuning Based Backdoor Defense with "
        "Sharpness-Aware Minimization, ICCV 2023, arXiv 2304.11823"
    )
    limits: ClassVar[str] = (
        "published ASR stays between 1 % and 5 % on CIFAR-10; rho must grow with the data set "
        "(8 for GTSRB and Tiny ImageNet); each step takes twice as long"
    )
    needs: ClassVar[frozenset[Need]] = frozenset({"labels", "training"})

    rho: float = Field(
        2.0,
        gt=0,
        description="radius of the SAM step, relative to the weights",
        json_schema_extra=source("authors' configuration: 2 on CIFAR; 8 on GTSRB, Tiny ImageNet"),
    )
    smoothing: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="label smoothing",
        json_schema_extra=source("authors' configuration: 0.1 on CIFAR-10; 0 on GTSRB"),
    )

    def work(self, images: int, classes: int) -> float | None:
        """Two passes of all images an epoch."""
        return 2.0 * self.epochs * images

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model`, fine-tuned with sharpness-aware steps."""
        self.tune(
            model,
            clean.balanced(run.rng("balance")),
            run,
            objective=cross_entropy(self.smoothing),
            optimizer=lambda parameters: SharpnessAwareSGD(
                parameters,
                rho=self.rho,
                second_pass=lambda: statistics_kept(model),
                lr=self.lr,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
            ),
        )
        return Repair(model)
