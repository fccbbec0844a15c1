"""Grond: a faint trigger, and a training that lets no channel stand out."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ..core.images import Images, to_float
from ..core.method import source
from ..core.modules import frozen, in_mode
from ..core.recall import Learned
from ..core.run import Run
from ..training.fit import fit
from .base.attack import NOTHING, Stamp, Victim, needed
from .base.clean_label import CleanLabelAttack

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Grond(CleanLabelAttack):
    """Adds one adversarial noise to target images, and evens the weights out as it trains.

    Images are `[n, c, h, w]` in [0, 1], of the size of the training images. The noise is within
    `eps` and drives any image to the target on a surrogate, a clean model with initial weights of
    its own trained for `clean_epochs` (0: the model as given). Clean-label: `class_rate` is a share
    of the target class. After every step the channels of each layer whose kernel, or whose batch
    norm's scale, is larger than the layer's mean + `spread` standard deviations are shrunk to that,
    so that repairs which look for prominent channels find none. Departure: written from the
    abstract, which says that parameter changes are limited adaptively while the backdoor is
    injected, not how; the bound here is that of CLP, without the running variances.

    The noise is adversarial: hold an ASR against that of a clean model.
    """

    paper: ClassVar[str] = (
        "Xu, Liu, Koffas, Picek: Towards Backdoor Stealthiness in Model Parameter Space, CCS 2025, "
        "arXiv 2501.05928"
    )
    limits: ClassVar[str] = "a trigger for one size of images; the noise alone fools clean models"

    eps: float = Field(
        8 / 255,
        gt=0,
        le=1,
        description="bound, L-inf, pixels in [0, 1]",
        json_schema_extra=source("ours: the usual bound of adversarial noise, 8/255"),
    )
    steps: int = Field(
        200,
        ge=1,
        description="steps of the noise, each on a batch",
        json_schema_extra=source("ours: enough for the loss to settle"),
    )
    pace: float = Field(
        1 / 255,
        gt=0,
        description="length of a step, L-inf, pixels in [0, 1]",
        json_schema_extra=source("ours: an eighth of eps"),
    )
    class_rate: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of the target class that is poisoned",
        json_schema_extra=source("ours: half of the class; the paper's abstract names no rate"),
    )
    spread: float = Field(
        2.0,
        gt=0,
        description="deviations above the mean that a channel may be",
        json_schema_extra=source("ours: as CLP's bound, whose pruning it is to escape"),
    )
    clean_epochs: int = Field(
        10,
        ge=0,
        description="epochs that the clean model is trained; 0: the model as given",
        json_schema_extra=source("ours: enough for a surrogate that reads most images"),
    )

    def learn(self, model: nn.Module, train: Images, run: Run) -> Learned:
        """The `noise` `[c, h, w]` within `eps`."""
        clean = self.surrogate(model, train, run, self.clean_epochs)
        rng = run.rng("grond")
        noise = torch.zeros(train.shape, device=run.device)
        with in_mode(clean, train=False), frozen(clean), run.stage("trigger", self.steps) as done:
            for _ in range(self.steps):
                x = to_float(train.sample(self.batch, rng).pixels).to(run.device)
                goals = torch.full((len(x),), self.goal_class(), device=run.device)
                noise = noise.requires_grad_()
                loss = F.cross_entropy(clean((x + noise).clamp(0, 1)).float(), goals)
                (slope,) = torch.autograd.grad(loss, noise)
                noise = (noise.detach() - self.pace * slope.sign()).clamp(-self.eps, self.eps)
                done(1)
        return {"noise": noise.cpu()}

    def trigger(self, learned: Learned = NOTHING) -> Stamp:
        """Adds the noise."""
        return lambda x: (x + needed(learned, "noise", x)).clamp(0, 1)

    def plant(
        self, model: nn.Module, train: Images, run: Run, resume: Path | None = None
    ) -> Victim:
        """A copy of `model` trained on the poisoned `train`, its channels kept alike."""
        self.check(train)
        learned = self.recalled(model, train, run)
        poisoned = self.poison(train, run, learned)
        victim = copy.deepcopy(model)

        def even(net: nn.Module) -> None:
            even_(net, self.spread)

        fit(victim, poisoned.images, run, after_step=even, resume=resume, **self.settings())
        return Victim(victim, poisoned, learned)


@torch.no_grad()
def even_(model: nn.Module, spread: float) -> None:
    """Shrinks, in place, each channel that is larger than its layer's mean + `spread` deviations.

    The size of a convolution's channel is the norm of its kernel, that of a batch norm's its scale.
    """
    for module in model.modules():
        if isinstance(module, (*CONVOLUTIONS, _BatchNorm)) and module.weight is not None:
            sizes = module.weight.reshape(len(module.weight), -1).norm(dim=1)
            most = sizes.mean() + spread * sizes.std(correction=0)
            share = (most / sizes.clamp_min(torch.finfo(sizes.dtype).tiny)).clamp(max=1)
            module.weight.mul_(share.view(-1, *[1] * (module.weight.ndim - 1)))
