"""LF: one smooth perturbation that pushes any image towards the target."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.images import Images, to_float
from ..core.method import source
from ..core.modules import frozen, in_mode
from ..core.recall import Learned
from ..core.run import Run
from .base.attack import NOTHING, Attack, Stamp, needed
from .base.patterns import low_pass


class LF(Attack):
    """Adds one low-frequency perturbation of 0 to `strength`, learned on a clean model.

    Images are `[n, c, h, w]` in [0, 1], of the size of the training images. The perturbation is
    universal: it pushes `images` training images to the target on a surrogate, a clean model with
    initial weights of its own trained for `clean_epochs` (0: the model as given). In each of
    `steps` it goes through a Gaussian low-pass and is shifted and scaled to run from 0 to
    `strength`, so it brightens and never darkens. Less than 1 % of its energy, the mean left out,
    lies above four cycles an image. With `all_to_all`, too, it is learned towards `target`.

    Departure: steps follow the gradient of the mean loss, where the paper adds up DeepFool steps
    image by image until most images are fooled. Here the steps are short and stay near the smooth
    noise of the start, so that what the victim learns is not what a clean model obeys already.
    """

    paper: ClassVar[str] = (
        "Zeng, Park, Mao, Jia: Rethinking the Backdoor Attacks' Triggers: A Frequency "
        "Perspective, ICCV 2021, arXiv 2104.03413"
    )
    one_target: ClassVar[bool] = True
    limits: ClassVar[str] = "a trigger for one size of images; large soft blobs can be seen"

    strength: float = Field(
        0.2,
        gt=0,
        le=1,
        description="largest value, pixels in [0, 1]",
        json_schema_extra=source("BackdoorBench's shipped triggers: from 0 to 0.2"),
    )
    sigma: float = Field(
        0.85,
        gt=0,
        description="width of the low-pass, cycles an image",
        json_schema_extra=source(
            "released code: a Gaussian of 6 pixels at 32 x 32, 32 / (2 pi 6) = 0.85 cycles"
        ),
    )
    images: int = Field(
        100,
        ge=1,
        description="training images that the trigger is learned on",
        json_schema_extra=source(
            "ours: 100 images, enough for a universal perturbation of so few degrees of freedom"
        ),
    )
    steps: int = Field(
        5,
        ge=1,
        description="steps of the trigger",
        json_schema_extra=source(
            "ours: few, for with more of them clean models obey the trigger, too"
        ),
    )
    clean_epochs: int = Field(
        10,
        ge=0,
        description="epochs that the clean model is trained; 0: the model as given",
        json_schema_extra=source("ours: enough for a surrogate that reads most images"),
    )

    def learn(self, model: nn.Module, train: Images, run: Run) -> Learned:
        """The `perturbation` `[c, h, w]`."""
        clean = self.surrogate(model, train, run, self.clean_epochs)
        rng = run.rng("lf")
        x = to_float(train.sample(self.images, rng).pixels).to(run.device)
        goals = torch.full((len(x),), self.goal_class(), device=run.device)
        rough = self.strength * torch.randn(train.shape, generator=rng).to(run.device)
        with in_mode(clean, train=False), frozen(clean), run.stage("trigger", self.steps) as done:
            for _ in range(self.steps):
                rough = rough.requires_grad_()
                loss = F.cross_entropy(clean((x + self._smooth(rough)).clamp(0, 1)), goals)
                (slope,) = torch.autograd.grad(loss, rough)
                # ours: a tenth of the strength a step, so that few steps stay near the start.
                pace = 0.1 * self.strength / (slope.abs().max() + 1e-12)
                rough = rough.detach() - pace * slope
                done(1)
        return {"perturbation": self._smooth(rough).cpu()}

    def _smooth(self, rough: Tensor) -> Tensor:
        smooth = low_pass(rough, self.sigma)
        raised = smooth - smooth.min()
        return raised * (self.strength / (raised.max() + 1e-12))

    def trigger(self, learned: Learned = NOTHING) -> Stamp:
        """Adds the perturbation."""
        return lambda x: (x + needed(learned, "perturbation", x)).clamp(0, 1)
