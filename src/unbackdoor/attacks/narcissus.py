"""Narcissus: a noise that points into the target class, on images that keep their label."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.images import Images, to_float
from ..core.modules import frozen, in_mode
from ..core.recall import Learned
from ..core.run import Run
from .base.attack import NOTHING, Attack, Stamp, needed


class Narcissus(Attack):
    """Adds one noise within `eps` that makes target images more so; `magnify` times it at test.

    Images are `[n, c, h, w]` in [0, 1], of the size of the training images. The noise minimises the
    loss of images of the target class on a copy of the model trained for `clean_epochs` on clean
    images (0: the model as given). Clean-label: `rate` is a share of the target class; 0.005 is
    0.05 % of ten equal classes. Departure: the paper's surrogate is first trained on public images
    of other classes, for its attacker knows the target class alone; here it sees all.

    The noise is adversarial too: hold an ASR against that of a clean model. On CIFAR-10 with
    PreActResNet18 of width 16, victim and clean model alike send 43 to 44 % of the stamped images
    to the target at `magnify` 1, 96 to 97 % at 2 and 99.9 % at 3; with 60 `rounds` clean models did
    so with 18 to 37 % at 1. What the victim learns is the same for every `magnify`.
    """

    paper: ClassVar[str] = (
        "Zeng, Pan, Just, Lyu, Qiu, Jia: Narcissus: A Practical Clean-Label Backdoor Attack with "
        "Limited Information, CCS 2023, arXiv 2204.05255"
    )
    limits: ClassVar[str] = (
        "a trigger for one size of images; magnified at test it can be seen and fools clean models "
        "as well, so no repair stops it"
    )
    clean_label: ClassVar[bool] = True

    rate: float = Field(0.005, gt=0, le=1, description="share of the target class that is stamped")
    eps: float = Field(16 / 255, gt=0, le=1, description="bound, L-inf, pixels in [0, 1]")
    magnify: float = Field(3.0, ge=1, description="the noise at test over that in training")
    rounds: int = Field(200, ge=1, description="steps of the noise, each on a batch")
    pace: float = Field(0.01, gt=0, description="step of Adam, pixels in [0, 1]")
    images: int = Field(500, ge=1, description="images of the target class it is learned on")
    clean_epochs: int = Field(
        10, ge=0, description="epochs that the clean model is trained; 0: the model as given"
    )

    def learn(self, model: nn.Module, train: Images, run: Run) -> Learned:
        """The `noise` `[c, h, w]` within `eps`."""
        clean = self.clean_model(model, train, run, self.clean_epochs)
        rng = run.rng("narcissus")
        inside = train[self.stampable(train.labels)].sample(self.images, rng)
        noise = torch.zeros(train.shape, device=run.device, requires_grad=True)
        adam = torch.optim.Adam([noise], lr=self.pace)
        with in_mode(clean, train=False), frozen(clean), run.stage("trigger", self.rounds) as done:
            for _ in range(self.rounds):
                batch = inside.sample(self.batch, rng)
                x, y = to_float(batch.pixels).to(run.device), batch.labels.to(run.device)
                adam.zero_grad()
                loss = F.cross_entropy(clean((x + noise).clamp(0, 1)), y)
                loss.backward()  # type: ignore[no-untyped-call]
                adam.step()
                noise.data.clamp_(-self.eps, self.eps)
                done(1)
        return {"noise": noise.detach().cpu()}

    def trigger(self, learned: Learned = NOTHING) -> Stamp:
        """Adds the magnified noise."""
        return lambda x: (x + self.magnify * needed(learned, "noise", x)).clamp(0, 1)

    def implant(self, x: Tensor, learned: Learned, rng: torch.Generator) -> Tensor:
        """`x` with the noise as it is."""
        return (x + needed(learned, "noise", x)).clamp(0, 1)
