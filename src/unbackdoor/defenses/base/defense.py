"""Defense: what every repair shares. One method is one file in `defenses/`.

A defense sees the model, clean images and a `Run`. It has no way to reach the attack, the trigger,
the target or the test set.
"""

from __future__ import annotations

import time
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from ...core.errors import ImagesError, UnbackdoorWarning
from ...core.images import Images, to_float
from ...core.measure import accuracy, check
from ...core.memory import check_step
from ...core.method import Method, source
from ...core.mirrors import warn_of_mirrors
from ...core.modules import copied, same_weights, unwrapped
from ...core.recall import kept_of
from ...core.run import Run
from ...network.channels import Mask
from ...training.fit import Objective, cosine, fit
from .counted import images_through
from .needs import Need
from .single import batches_of_one_refused

FEWEST_HELD_OUT = 8
"""Fewer images than that tell nothing about a model, so fewer are not held out."""


@dataclass(frozen=True, eq=False)
class Repair:
    """A repaired model and what was done to it.

    `silenced` says which channels put out nothing now; `pruned` which were pruned, also where they
    may have grown back or the repair was undone, and is `silenced` unless it is given; `scores`
    holds a method's score of every channel, float32 `[channels]` by layer name; `score_name` tells
    what the scores are and which end is suspect; `notes` are numbers worth keeping.
    """

    model: nn.Module
    silenced: Mask = field(default_factory=dict)
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    notes: Mapping[str, float] = field(default_factory=dict)
    score_name: str = ""
    pruned: Mask = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.pruned:
            object.__setattr__(self, "pruned", self.silenced)


class Defense(Method):
    """A way to take a backdoor out of a trained model, given clean images.

    Some of the clean images are kept from the method, to judge what it did.
    """

    needs: ClassVar[frozenset[Need]]
    """What it cannot do without; `needs.NEEDS` says what each means."""
    quick: ClassVar[Mapping[str, int]] = {}
    """Parameters for who cannot wait: they take less time, and accuracy or the backdoor tells."""

    held_out: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of the clean images held out to check the repair",
        json_schema_extra=source("ours: enough to see that a repair destroyed the model"),
    )
    max_acc_drop: float = Field(
        0.2,
        ge=0,
        le=1,
        description="largest drop of held-out accuracy (0 to 1) before the repair is undone",
        json_schema_extra=source("ours: no published repair that works costs so much"),
    )

    def repair(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """The repair of a copy of `model` on `run.device`; the model that came in is not touched.

        What wraps it for speed (data parallelism, torch.compile) is left off.
        Its notes add the `seconds`, the `passes` over the clean images (every image that went
        through the model counts once), the `passes_back` (every gradient that came back through
        the model, once an image), and the held-out accuracy.
        Where that fell by more than `max_acc_drop` beyond doubt (Wilson's interval, 95 %), the
        repair has destroyed the model: a warning says so, and the model comes back as it came.

        Raises `ModelError` for weights or outputs that are not finite, and where a training step
        does not fit into memory; `ImagesError` for images that do not fit the model. Warns where
        the repair changed no weight.
        """
        model = unwrapped(model)
        self.check(model, clean)
        used, judges = self.divided(clean, run, "judging")
        start = time.perf_counter()
        own = copied(model).to(run.device)
        batch = min(getattr(self, "batch", 1), len(clean))
        check_step(own, to_float(clean.pixels[:1]).to(run.device), batch, run)
        with batches_of_one_refused(self.name()), images_through(own) as (seen, back):
            repaired = self.mend(own, used, run)
        notes = {
            **repaired.notes,
            "seconds": time.perf_counter() - start,
            "passes": sum(seen) / len(clean),
            "passes_back": sum(back) / len(clean),
        }
        modes = {name: module.training for name, module in model.named_modules()}
        for name, module in repaired.model.named_modules():
            module.training = modes.get(name, model.training)
        repaired.model.zero_grad(set_to_none=True)
        if len(judges):
            before = accuracy(copied(model).to(run.device), judges, run)
            after = accuracy(repaired.model, judges, run)
            notes |= {"held_out_acc_before": before.value, "held_out_acc_after": after.value}
            if before.value - after.interval()[1] > self.max_acc_drop:
                self._warn(
                    f"destroyed the model: held-out clean accuracy fell from {before.value:.2f} "
                    f"to {after.value:.2f}, by more than {self.max_acc_drop:g}; "
                    "the model comes back as it came"
                )
                as_it_came = copied(model).to(run.device)
                return replace(repaired, model=as_it_came, silenced={}, notes=notes)
        if same_weights(model, repaired.model):
            self._warn("changed no weight")
        return replace(repaired, notes=notes)

    def divided(self, clean: Images, run: Run, purpose: str) -> tuple[Images, Images]:
        """(the rest, the `held_out` share) of `clean`, drawn for this `purpose`.

        Of few images a larger share is held out, a quarter of at most 40, and of fewer than 32
        none. Methods that tune something hold out images for that in the same way.
        """
        held, rest = clean.split(self.judges(len(clean)), run.rng(purpose))
        return rest, held

    def judges(self, images: int) -> int:
        """How many of so many clean images `divided` holds out."""
        n = max(round(self.held_out * images), min(10, images // 4))
        return n if self.held_out and n >= FEWEST_HELD_OUT else 0

    def with_judges(self, clean: Images, run: Run, purpose: str) -> tuple[Images, Images]:
        """As `divided`; where nothing is held out, the images that are learned from judge."""
        rest, held = self.divided(clean, run, purpose)
        return rest, held if len(held) else rest

    def judging(self, images: int, cuts: int) -> float:
        """The work of so many cuts of a model, each judged by `with_judges`, without gradients."""
        used = images - self.judges(images)
        return cuts * (self.judges(used) or used) / 3

    def _warn(self, what: str) -> None:
        warnings.warn(f"{self.name()} {what}", UnbackdoorWarning, stacklevel=3)

    @abstractmethod
    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """The repair of `model`, which is the method's own copy, in place."""

    def check(self, model: nn.Module, clean: Images) -> None:
        """Refuses, before any work, what cannot be repaired."""
        if not len(clean):
            raise ImagesError(f"{self.name()} needs clean images, got none")
        check(model, clean)
        warn_of_mirrors(self, clean)

    def work(self, images: int, classes: int) -> float | None:
        """How many images a repair takes through the model and back.

        With so many clean `images` of so many `classes`; None where nobody knows before.
        """
        return None

    def state_file(self, model: nn.Module, clean: Images, run: Run) -> Path | None:
        """Where in `run.cache` the tuning of `model` as it is now keeps its state, for `fit`."""
        path = kept_of(model, run, "fine-tuning", self.declaration(), clean).path
        return path and path.with_suffix(".pt")


class Augmented(Defense):
    """A defense that learns from clean images that are cropped, and perhaps mirrored, at random.

    Whether mirror images are right is a matter of the data set (a mirrored traffic sign is another
    sign), so a grid says it once for all of these.
    """

    flip: bool = Field(
        True,
        description="mirror images at random",
        json_schema_extra=source(
            "BackdoorBench on CIFAR-10; it mirrors no traffic signs: flip=false for GTSRB"
        ),
    )


class Tuning(Augmented):
    """A defense that trains on clean images by SGD; it adds the fields of the field's protocol."""

    epochs: int = Field(
        100,
        ge=0,
        description="epochs on the clean images",
        json_schema_extra=source("BackdoorBench on CIFAR-10: 100; 50 on GTSRB"),
    )
    lr: float = Field(
        0.01,
        gt=0,
        description="initial learning rate of SGD (cosine schedule to 0)",
        json_schema_extra=source("BackdoorBench: 0.01, cosine"),
    )
    batch: int = Field(
        256,
        ge=2,
        description="batch size",
        json_schema_extra=source("BackdoorBench: 256"),
    )
    momentum: float = Field(
        0.9,
        ge=0,
        lt=1,
        description="momentum of SGD",
        json_schema_extra=source("BackdoorBench: 0.9"),
    )
    weight_decay: float = Field(
        5e-4,
        ge=0,
        description="weight decay of SGD",
        json_schema_extra=source("BackdoorBench: 5e-4"),
    )

    def falling(self, step: int, steps: int) -> float:
        """The share of the learning rate left before `step` of `steps`, unless `tune` is told."""
        return cosine(step, steps)

    def tune(
        self,
        model: nn.Module,
        clean: Images,
        run: Run,
        after_step: Callable[[nn.Module], object] | None = None,
        objective: Objective | None = None,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
        schedule: Callable[[int, int], float] | None = None,
        epochs: int | None = None,
        lr: float | None = None,
        crop: bool = True,
        stage: str = "fine-tuning",
        resume: Path | None = None,
    ) -> None:
        """Trains `model` in place on the clean images; the other arguments as in `fit`."""
        fit(
            model,
            clean,
            run,
            stage=stage,
            after_step=after_step,
            objective=objective,
            optimizer=optimizer,
            schedule=schedule or self.falling,
            epochs=self.epochs if epochs is None else epochs,
            lr=self.lr if lr is None else lr,
            crop=crop,
            batch=self.batch,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            flip=self.flip,
            resume=resume,
        )
