"""Defense: what every repair shares. One method is one file in `defenses/`.

A defense sees the model, clean images and a `Run`. It has no way to reach the attack, the trigger,
the target or the test set.
"""

from __future__ import annotations

import copy
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn

from .channels import Mask
from .errors import ImagesError, UnbackdoorWarning
from .images import Images
from .measure import check
from .method import Method
from .recall import kept_of
from .run import Run
from .train import fit


@dataclass(frozen=True, eq=False)
class Repair:
    """A repaired model and what was done to it.

    `silenced` says which channels put out nothing now; `scores` holds a method's score of every
    channel, float32 `[channels]` by layer name; `notes` are numbers worth keeping.
    """

    model: nn.Module
    silenced: Mask = field(default_factory=dict)
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    notes: Mapping[str, float] = field(default_factory=dict)


class Defense(Method):
    """A way to take a backdoor out of a trained model, given clean images."""

    def repair(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """The repair of a copy of `model` on `run.device`; the model that came in is not touched.

        Raises `ModelError` for weights or outputs that are not finite and `ImagesError` for images
        that do not fit the model. Warns where the repair changed no weight.
        """
        self.check(model, clean)
        repaired = self.mend(copy.deepcopy(model).to(run.device), clean, run)
        before, after = model.state_dict(), repaired.model.state_dict()
        if before.keys() == after.keys() and all(
            torch.equal(before[key].cpu(), after[key].cpu()) for key in before
        ):
            warnings.warn(f"{self.name()} changed no weight", UnbackdoorWarning, stacklevel=2)
        for module, was in zip(repaired.model.modules(), model.modules(), strict=False):
            module.training = was.training
        return repaired

    @abstractmethod
    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """The repair of `model`, which is the method's own copy."""

    def check(self, model: nn.Module, clean: Images) -> None:
        """Refuses, before any work, what cannot be repaired."""
        if not len(clean):
            raise ImagesError(f"{self.name()} needs clean images, got none")
        check(model, clean)


class Tuning(Defense):
    """A defense that trains on clean images; it adds the fields of the field's protocol."""

    epochs: int = Field(100, ge=0, description="passes over the clean images")
    lr: float = Field(0.01, gt=0, description="learning rate of SGD at the start, cosine to 0")
    batch: int = Field(256, ge=2, description="images a step")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of SGD")
    weight_decay: float = Field(5e-4, ge=0, description="weight decay of SGD")
    flip: bool = Field(True, description="mirror half of the images")

    def tune(
        self,
        model: nn.Module,
        clean: Images,
        run: Run,
        after_step: Callable[[nn.Module], object] | None = None,
        resume: Path | None = None,
    ) -> None:
        """Trains `model` in place on the clean images; the other arguments as in `train.fit`."""
        fit(
            model,
            clean,
            run,
            stage="fine-tuning",
            after_step=after_step,
            epochs=self.epochs,
            lr=self.lr,
            batch=self.batch,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            flip=self.flip,
            resume=resume,
        )

    def state_file(self, model: nn.Module, clean: Images, run: Run) -> Path | None:
        """Where in `run.cache` the tuning of `model` as it is now keeps its state, for `tune`."""
        path = kept_of(model, run, "fine-tuning", self.declaration(), clean).path
        return path and path.with_suffix(".pt")
