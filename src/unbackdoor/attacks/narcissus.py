"""Narcissus: a noise that points into the target class, on images that keep their label."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import ParameterError
from ..core.images import Images
from ..core.method import source
from ..core.modules import frozen, in_mode
from ..core.recall import Learned
from ..core.run import Run
from ..training.fit import fit
from .base import public
from .base.attack import NOTHING, Stamp, needed
from .base.clean_label import CleanLabelAttack


class Narcissus(CleanLabelAttack):
    """Adds one noise within `eps` that makes images more typical of the target; larger at test.

    Images are `[n, c, h, w]` in [0, 1], of the size of the training images. The attacker has the
    images of the target class and public ones, and has never seen the victim's other classes. A
    surrogate of the victim's architecture, with initial weights of its own, learns the public
    classes and the target; then, for `warmup_epochs`, the target alone. The noise lowers its loss
    on target images, in `rounds` passes over them: as the lead of the other classes, of which
    cross-entropy is log(1 + exp(lead)), for the latter has no slope left after the warm-up.
    Clean-label: `class_rate` is a share of the target class; 0.005 is 0.05 % of ten equal classes.

    Departures: the public images are textures drawn by code unless `public` names a file, where the
    paper takes Tiny-ImageNet; they share the outputs of the victim's other classes, so that many
    public classes are merged. At its defaults, which are the paper's, learning takes an hour of a
    GPU; on one processor core give fewer `surrogate_epochs` and `rounds`.

    The noise may be adversarial too: hold an ASR against that of a clean model.
    """

    paper: ClassVar[str] = (
        "Zeng, Pan, Just, Lyu, Qiu, Jia: Narcissus: A Practical Clean-Label Backdoor Attack with "
        "Limited Information, CCS 2023, arXiv 2204.05255"
    )
    limits: ClassVar[str] = (
        "a trigger for one size of images; magnified at test it can be seen and may fool clean "
        "models as well, which no repair stops"
    )
    files: ClassVar[tuple[str, ...]] = ("indices", "public")

    class_rate: float = Field(
        0.005,
        gt=0,
        le=1,
        description="share of the target class that is poisoned",
        json_schema_extra=source(
            "Zeng et al. 2023: 0.05 % of the whole set, 0.5 % of one of ten classes"
        ),
    )
    eps: float = Field(
        16 / 255,
        gt=0,
        le=1,
        description="bound, L-inf, pixels in [0, 1]",
        json_schema_extra=source("released code: 16/255"),
    )
    magnify: float = Field(
        3.0,
        ge=1,
        description="the noise at test over that in training",
        json_schema_extra=source("released code: 3 at test"),
    )
    rounds: int = Field(
        1000,
        ge=1,
        description="passes of the noise over the target images",
        json_schema_extra=source("released code: 1,000 passes"),
    )
    pace: float = Field(
        0.005,
        gt=0,
        description="step of RAdam, pixels in [0, 1]",
        json_schema_extra=source("released code: 0.01 on pixels in [-1, 1]"),
    )
    public: Path | None = Field(
        None,
        description="file .npz of public images of other classes; null: textures are drawn",
        json_schema_extra=source("released code: Tiny-ImageNet, which is not ours to give"),
    )
    surrogate_epochs: int = Field(
        200,
        ge=1,
        description="epochs of the surrogate on public and target images",
        json_schema_extra=source("released code: 200"),
    )
    warmup_epochs: int = Field(
        5,
        ge=0,
        description="epochs of the surrogate on target images alone",
        json_schema_extra=source("released code: 5"),
    )

    def learn(self, model: nn.Module, train: Images, run: Run) -> Learned:
        """The `noise` `[c, h, w]` within `eps`."""
        inside = train[self.stampable(train.labels)]
        seen = self.seen(inside, run)
        net = self.surrogate(model, seen, run, self.surrogate_epochs)
        if self.warmup_epochs:
            settings = self.settings() | {"epochs": self.warmup_epochs}
            fit(net, inside, run, stage="warm-up", **settings)
        rng = run.rng("narcissus")
        noise = torch.zeros(train.shape, device=run.device, requires_grad=True)
        radam = torch.optim.RAdam([noise], lr=self.pace)
        with in_mode(net, train=False), frozen(net), run.stage("trigger", self.rounds) as done:
            for _ in range(self.rounds):
                for x, y in inside.batches(self.batch, rng):
                    x, y = x.to(run.device), y.to(run.device)
                    radam.zero_grad()
                    loss = _margin(net((x + noise).clamp(0, 1)).float(), y).mean()
                    loss.backward()  # type: ignore[no-untyped-call]
                    radam.step()
                    noise.data.clamp_(-self.eps, self.eps)
                done(1)
        return {"noise": noise.detach().cpu()}

    def seen(self, inside: Images, run: Run) -> Images:
        """What the surrogate is taught: the target images `inside`, and public ones of others.

        Public classes take the numbers of the classes that are not the target.
        """
        slots = torch.tensor([k for k in range(len(inside.classes)) if k != self.goal_class()])
        if not len(slots):
            raise ParameterError("a surrogate needs a class beside the target")
        if self.public is None:
            count = max(len(inside), 20) * len(slots)
            others = public.drawn(count, len(slots), inside.shape, run.rng("public"))
        else:
            others = public.from_file(self.public, inside.shape)
        labels = slots[others.labels % len(slots)]
        pixels = torch.cat([inside.pixels, others.pixels])
        return Images(pixels, torch.cat([inside.labels, labels]), inside.classes)

    def trigger(self, learned: Learned = NOTHING) -> Stamp:
        """Adds the magnified noise."""
        return lambda x: (x + self.magnify * needed(learned, "noise", x)).clamp(0, 1)

    def implant(self, x: Tensor, learned: Learned, rng: torch.Generator) -> Tensor:
        """`x` with the noise as it is."""
        return (x + needed(learned, "noise", x)).clamp(0, 1)


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The lead `[n]` of the other classes over the label's: cross-entropy is log(1 + exp(lead))."""
    own = F.one_hot(labels, logits.shape[1]).bool()
    others: Tensor = logits.masked_fill(own, -torch.inf).logsumexp(1)
    return others - logits[own]
