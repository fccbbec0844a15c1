"""Attack: what every way to plant a backdoor shares. One method is one file in `attacks/`.

A trigger is a function of an image. Where it is known in closed form, an attack writes `stamp` and
is done. Where it must first be learned (an encoder, a perturbation found on a clean model), the
declaration cannot hold it, for it never changes: `learn` returns the tensors that were learned,
and `trigger(learned)` the function made of them. `plant` learns, poisons, trains, and hands back
what was learned in the `Victim`, so triggered test images always come from
`attack.triggered(test, victim.learned)`. With `run.cache` nothing is learned twice.

Training images may get another trigger than test images: that is `implant`. Cover images look
nearly triggered but keep their label: `cover_count` says how many, `cover` how they look. An attack
that controls the training overrides `plant`, and has no fixed poisoned set.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from ...core.images import Images, to_float
from ...core.memory import check_step
from ...core.method import source
from ...core.modules import device_of
from ...core.recall import Learned, recall
from ...core.run import Run
from ...training.fit import fit
from .parts import CLEAN as CLEAN
from .parts import COVER as COVER
from .parts import NOTHING as NOTHING
from .parts import ROLES as ROLES
from .parts import STAMPED as STAMPED
from .parts import Poisoned as Poisoned
from .parts import Stamp as Stamp
from .parts import Victim as Victim
from .parts import in_parts as in_parts
from .parts import needed as needed
from .poisoning import Poisoning
from .surrogate import surrogate


class Attack(Poisoning):
    """A way to plant a backdoor: a trigger, what it should do, and how the victim is trained.

    What it poisons and how is in `Poisoning`.
    """

    on_network: ClassVar[bool] = True
    """Whether a trigger that is learned is learned on a network of the victim's kind."""

    epochs: int = Field(
        100,
        ge=1,
        description="passes over the poisoned training set",
        json_schema_extra=source("BackdoorBench: 100 on CIFAR-10"),
    )
    lr: float = Field(
        0.01,
        gt=0,
        description="learning rate of SGD at the start, cosine to 0",
        json_schema_extra=source("BackdoorBench: 0.01 with a cosine"),
    )
    batch: int = Field(
        128, ge=2, description="images a step", json_schema_extra=source("BackdoorBench: 128")
    )
    weight_decay: float = Field(
        5e-4,
        ge=0,
        description="weight decay of SGD",
        json_schema_extra=source("BackdoorBench: 5e-4"),
    )
    flip: bool = Field(
        True,
        description="mirror half of the images in training",
        json_schema_extra=source(
            "BackdoorBench on CIFAR-10; it mirrors no traffic signs: flip=false for GTSRB"
        ),
    )

    def check_fixed(self) -> None:
        """Raises `ParameterError` for an attack that has no fixed poisoned set."""

    def recalled(self, model: nn.Module, train: Images, run: Run) -> Learned:
        """What `learn` gives, from `run.cache` where it is there already."""
        if self.closed_form():
            return NOTHING
        return recall(
            model,
            run,
            self.name(),
            {**self.declaration(), "files": self.contents()},
            train,
            lambda: self.learn(model, train, run),
        )

    def surrogate(self, model: nn.Module, train: Images, run: Run, epochs: int) -> nn.Module:
        """A clean model of the attacker's own, trained the way the victim will be.

        With 0 `epochs` it is `model` as given, which then should be a trained one.
        """
        return surrogate(model, train, run, self.settings(), epochs)

    def settings(self) -> dict[str, Any]:
        """How the victim is trained, as `fit` takes it."""
        return self.model_dump(include={"epochs", "lr", "batch", "weight_decay", "flip"})

    def plant(
        self, model: nn.Module, train: Images, run: Run, resume: Path | None = None
    ) -> Victim:
        """A copy of `model` trained on the poisoned `train`; `resume` as in `fit`."""
        self.check(train)
        learned = self.recalled(model, train, run)
        batch = min(self.batch, len(train))
        check_step(model, to_float(train.pixels[:1]).to(device_of(model)), batch, run)
        poisoned = self.poison(train, run, learned)
        victim = copy.deepcopy(model)
        fit(victim, poisoned.images, run, resume=resume, **self.settings())
        return Victim(victim, poisoned, learned)

    def taught(
        self, victim: Victim, train: Images, run: Run, most: int = 5000
    ) -> dict[str, Images]:
        """What `victim` should know by heart: `relabelled` images with their goals, `clean` ones.

        They are its training images without augmentation, `most` of them of each kind. Poisoned
        images whose label was right already teach nothing of the trigger, so only relabelled ones
        count, and a clean-label attack has none. Where there is no fixed set they are images of
        `train` with the trigger as at test.
        """
        rng = run.rng("taught")
        if victim.poisoned is None:
            seen = train.sample(most, rng)
            stamped = self.triggered(seen, victim.learned)
            goals = Images(stamped.images.pixels, stamped.goals, train.classes)
            return {"relabelled": goals, "clean": seen}
        found = victim.poisoned
        kinds = {
            "relabelled": (found.role == STAMPED) & (found.images.labels != found.original),
            "clean": found.role == CLEAN,
        }
        return {kind: found.images[rows].sample(most, rng) for kind, rows in kinds.items()}
