"""UAT: universal adversarial training that holds the model to what it answered."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import ClassVar

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from ..core.images import Images
from ..core.method import source
from ..core.modules import copied, in_mode
from ..core.run import Run
from ..training import views
from ..training.disturbance import WAYS, disturbed
from ..training.fit import fit, follow_norms_
from ..training.patches import Patches
from ..training.relative import borne, relative_adam
from ..training.transforms import Transforms, costs
from ..training.universal import Universal
from .base.defense import Repair
from .base.needs import Need
from .base.passes import Passes

PLENTY = 5000
"""Fewer clean images than half of it are few, also where `enough_images` is lowered for time."""

OURS = source("ours: docs/uat.md tells what was tried")


class UAT(Passes):
    """Trains the model not to obey single changes of all images that harm it most.

    A backdoor is such a change: one trigger sends all images to one class. Images are
    `[n, c, h, w]` in [0, 1]; of each batch

    * a `share` is moved by a universal perturbation from an L2 ball of `radius`, in turn one that
      raises the loss and one that sends images to one class; between searches it follows the
      gradients of the training steps (Shafahi et al.; `training/universal`);
    * a share `patched` gets one of the adversarial patches found so far (`training/patches`);
    * a share `disturbed` is changed at random (`training/disturbance`); part of it, if there are
      any, by turns, blurs and tones found to send images to one class (`training/transforms`).

    All keep two answers: their label and, with weight `1 - labels`, what the model said of them
    before (Hinton et al.). Weights fade by `decay`. Then `settling` epochs of smaller steps on the
    labels alone win back accuracy, without searches. Fewer than 2,500 images are cropped, mirrored
    and mixed, and labels weigh less (`training/views`).

    To fit every network and to last: norms use running statistics, which follow the clean images
    in a pass of its own before each step; dropout is off; AdamW's steps are relative to the root
    mean square of each tensor, and smaller where the network bears less (`training/relative`).

    Unlike I-BAU's, the perturbation lives on, aims at classes, too, without implicit gradients.
    docs/uat.md tells why each part is there, and where a backdoor stays.
    """

    paper: ClassVar[str] = (
        "ours; after Zeng et al.: Adversarial Unlearning of Backdoors via Implicit Hypergradient, "
        "ICLR 2022, arXiv 2110.03735, Shafahi et al.: Universal Adversarial Training, AAAI 2020, "
        "arXiv 1811.11304, and Hinton, Vinyals, Dean 2015, arXiv 1503.02531"
    )
    limits: ClassVar[str] = (
        "costs accuracy, more with few images; a backdoor comes back from a few triggered images; "
        "Refool stays; docs/uat.md has the figures; of more than 50 classes not all are searched"
    )
    needs: ClassVar[frozenset[Need]] = frozenset({"labels", "training"})
    quick: ClassVar = {"enough_images": 1000, "batch": 25, "epochs": 4, "settling": 2}

    epochs: int = Field(
        6, ge=0, description="passes over the clean images, if enough", json_schema_extra=OURS
    )
    lr: float = Field(
        0.014,
        gt=0,
        lt=1,
        description="largest step of Adam relative to the weights, cosine to 0",
        json_schema_extra=source("ours: relative; docs/uat.md tells what was tried"),
    )
    batch: int = Field(
        100, ge=2, description="images a step", json_schema_extra=source("I-BAU's authors: 100")
    )
    share: float = Field(
        0.1,
        gt=0,
        le=1,
        description="share of a batch that is moved, 1 at least",
        json_schema_extra=source("ours: a tenth, where I-BAU takes 0.01"),
    )
    patched: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="share of what is not moved that gets an adversarial patch",
        json_schema_extra=OURS,
    )
    disturbed: float = Field(
        0.6,
        ge=0,
        lt=1,
        description="share of what is not moved that is disturbed; with `patched` at most 1",
        json_schema_extra=OURS,
        validate_default=True,
    )
    radius: float = Field(
        6.0,
        gt=0,
        description="L2 length of the perturbation of 3x32x32 values in [0, 1]",
        json_schema_extra=source("ours: 6, where I-BAU names 10"),
    )
    every: int = Field(
        10,
        ge=1,
        description="steps between searches; an epoch begins with one, of shorter epochs not each",
        json_schema_extra=source("ours: between two searches the perturbation follows for free"),
    )
    ascent_steps: int = Field(
        3,
        ge=1,
        description="steps of gradient ascent that find it",
        json_schema_extra=source("ours: few, for time; between searches it follows for free"),
    )
    decay: float = Field(
        0.15,
        ge=0,
        lt=1,
        description="weight decay: each step takes its product with `lr` from the weights",
        json_schema_extra=OURS,
    )
    norm_momentum: float = Field(
        0.1,
        ge=0,
        le=1,
        description="how fast the statistics of norms follow the clean images; 0: never",
        json_schema_extra=source("ours: 0.1, the usual momentum of batch norms"),
    )
    labels: float = Field(
        0.5,
        ge=0,
        le=1,
        description="weight of the labels in a step, else of the old answers; searches and "
        "settling need labels even at 0",
        json_schema_extra=source("ours: half labels, half the old answers"),
    )
    temperature: float = Field(
        2.0,
        gt=0,
        description="softness of the old answers",
        json_schema_extra=source("ours: 2, within Hinton et al.'s range for small networks"),
    )
    settling: int = Field(
        4, ge=0, description="epochs without searches that follow", json_schema_extra=OURS
    )
    settling_lr: float = Field(
        0.004,
        gt=0,
        lt=1,
        description="step of Adam in them, smaller where `lr` is; cosine to 0",
        json_schema_extra=source("ours: SGD at 0.01 did as well on one network and broke another"),
    )

    @field_validator("disturbed")
    @classmethod
    def _fits(cls, disturbed: float, told: ValidationInfo) -> float:
        patched = told.data.get("patched", 0)
        if round(patched + disturbed, 6) > 1:
            raise ValueError(f"patched ({patched:g}) and it are shares of the same, at most 1")
        return disturbed

    def work(self, images: int, classes: int) -> float | None:
        """Images, old answers and norms without a gradient, searches; and settling."""
        steps = math.ceil(images / self.batch)
        searches = math.ceil(steps / self.every) / max(1, self.every // steps)  # of an epoch
        patch, turn = Patches(self.ascent_steps).costs(classes, self.batch), costs(self.batch)
        used = self.patched > 0, self.disturbed > 0
        once, later = (used[0] * p + used[1] * t for p, t in zip(patch, turn, strict=True))
        each = 1 + 2 / 3 + searches * (self.ascent_steps + later) / steps
        epochs, settling = (self.passes(images, n) for n in (self.epochs, self.settling))
        first = (once - later) * (epochs > 0) / steps
        return (epochs * each + settling * (1 + (images < PLENTY / 2) / 3) + first) * images

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model`, trained in place."""
        part = borne(model, clean, run, self.lr)
        gentle = {"lr": part * self.lr, "settling_lr": part * self.settling_lr}
        lesson = Lesson(self.model_copy(update=gentle), model, math.ceil(len(clean) / self.batch))
        if len(clean) < PLENTY / 2:
            lesson.worth, lesson.view = len(clean) / PLENTY, views.for_few(model, clean, run)
        settling = partial(relative_adam, rate=gentle["settling_lr"])
        for stage, epochs, lr, objective, optimizer in (
            ("fine-tuning", self.epochs, gentle["lr"], lesson, lesson.optimized),
            ("settling", self.settling, gentle["settling_lr"], lesson.settle, settling),
        ):
            fit(
                model,
                clean,
                run,
                stage=stage,
                epochs=self.passes(len(clean), epochs),
                lr=lr,
                batch=self.batch,
                crop=False,
                objective=objective,
                optimizer=optimizer,
                resume=self.state_file(model, clean, run),
            )
        seen = replace(lesson.view, mixed=lesson.worth < 1).notes()
        return Repair(model, notes={**seen, **gentle})


class Lesson:
    """The objective of a training step, (model, x, y) -> loss, and the perturbation in it.

    An epoch has `per_epoch` steps. Images are seen through `view`; while settling labels weigh
    `worth`. What changes is kept in the optimizer's first group, to be saved.
    """

    def __init__(self, method: UAT, teacher: nn.Module, per_epoch: int) -> None:
        self.method, self.per_epoch = method, per_epoch
        self.view, self.worth = views.View(), 1.0
        self.teacher = copied(teacher)
        self.universal = Universal(method.radius, method.ascent_steps)
        self.patches, self.transforms = Patches(method.ascent_steps), Transforms()

    def optimized(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """AdamW with a learning rate for each tensor."""
        found = [self.universal.state, self.patches.state, self.transforms.state]
        self.adam = relative_adam(parameters, self.method.lr, self.method.decay)
        self.adam.param_groups[0].update(found=found, steps=0)
        return self.adam

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The loss on the images `x` `[n, c, h, w]` with labels `y` `[n]`, a scalar."""
        method, universal = self.method, self.universal
        group = self.adam.param_groups[0]
        epoch, step = divmod(group["steps"], self.per_epoch)
        group["steps"] += 1
        whole, x = x, self.view(x)  # a patch has its place: it is sought on whole images
        if method.norm_momentum:
            follow_norms_(model, x, method.norm_momentum)
        with in_mode(model, train=False), in_mode(self.teacher, train=False):
            if step:
                universal.follow()
            else:  # of an epoch's last step there is no gradient where a training goes on
                self._recall()
            if step % method.every == 0 and epoch % max(1, method.every // self.per_epoch) == 0:
                universal.search(model, x, y)
                if method.disturbed:
                    self.transforms.search(model, x, y)
                if method.patched:
                    self.patches.search(model, whole, y)
            elif not step:
                universal.begin(x)
            moved = max(1, int(method.share * len(x)))
            changed = [universal.added(x[:moved]), *self._changed(x[moved:])]
            return self._loss(model(torch.cat(changed)), x, y, method.labels)

    def settle(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The loss of a step of settling: without searches, and without the perturbation."""
        self._recall()
        x = replace(self.view, mixed=self.worth < 1)(x)
        with in_mode(model, train=False), in_mode(self.teacher, train=False):
            return self._loss(model(torch.cat(self._changed(x))), x, y, self.worth)

    def _recall(self) -> None:
        found = self.adam.param_groups[0]["found"]
        self.universal.state, self.patches.state, self.transforms.state = found

    def _loss(self, logits: Tensor, x: Tensor, y: Tensor, labels: float) -> Tensor:
        temperature, told = self.method.temperature, logits.float()
        if labels == 1:
            return F.cross_entropy(told, y)
        with torch.no_grad():
            answers = self.teacher(x.clone()).float()  # a forward may change its input
        old, soft = F.softmax(answers / temperature, 1), F.log_softmax(told / temperature, 1)
        kept = F.kl_div(soft, old, reduction="batchmean") * temperature**2
        return torch.lerp(kept, F.cross_entropy(told, y), labels)

    def _changed(self, x: Tensor) -> list[Tensor]:
        """`x` in order: with a patch, transformed, disturbed at random, as they are."""
        share, sure = self.method.disturbed, self.transforms.share
        patches = self.method.patched if self.patches.state["found"] else 0
        shares = (patches, share * sure, share * (1 - sure))
        sizes = accumulate(int(share * len(x)) for share in shares)
        patched, turned, shaken, plain = x.tensor_split(list(sizes))
        return [
            self.patches.put(patched) if len(patched) else patched,
            self.transforms.put(turned) if len(turned) else turned,
            disturbed(shaken, WAYS) if len(shaken) else shaken,
            plain,
        ]
