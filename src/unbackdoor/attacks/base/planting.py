"""What goes with every victim: the network it is, and whether it learned what it should have."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ... import models
from ...core import measure
from ...core.errors import ParameterError, UnbackdoorWarning
from ...core.images import Images, to_float
from ...core.measure import Rate
from ...core.mirrors import warn_of_mirrors as warn_of_mirrors
from ...core.modules import unwrapped
from ...core.run import Run
from ...core.spec import Spec
from ...models import Normalized
from .attack import Attack, Victim
from .parts import Poison

LEARNED = {"relabelled": 0.95, "training_asr": 0.95, "clean": 0.90}
"""A victim that learned less of its training images flatters every defense.

A clean-label attack has no relabelled images: what it learned is seen on triggered ones of others.
"""
CALLED = {"training_asr": "triggered"}
"""What a person calls a kind, where it is not its name."""


@dataclass(frozen=True)
class Network:
    """The network to train; without mean and std it takes those of its training images."""

    arch: str
    options: Mapping[str, Any]
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    @property
    def channels(self) -> int | None:
        """The channels of its images, as far as its options say."""
        found = self.options.get("in_channels", self.options.get("in_chans"))
        return found if isinstance(found, int) else None

    def build(self, train: Images, run: Run) -> Normalized:
        """The network with fresh weights, for the classes and the values of `train`."""
        if (self.mean is None) != (self.std is None):
            raise ParameterError("--mean and --std belong together; only one is given")
        mean, std = self.mean, self.std
        if mean is None or std is None:
            mean, std = _scale(train)
        spec = Spec(
            *(self.arch, train.classes, tuple(mean), tuple(std), dict(self.options)),
            size=train.shape[1:],
        )
        model = models.create(spec, run.rng("weights"))
        measure.check(model, train)
        return model


def _scale(train: Images) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of at most 5,000 images, three digits of them."""
    x = to_float(train.pixels[:5000])
    mean, std = x.mean((0, 2, 3)), x.std((0, 2, 3)).clamp_min(1e-3)
    return [round(float(v), 3) for v in mean], [round(float(v), 3) for v in std]


def learned(attack: Attack, victim: Victim, train: Images, run: Run) -> dict[str, Rate]:
    """How many of the relabelled and of the clean training images the victim gives their label.

    Without augmentation. Poisoned images whose label was right already are not counted, for they
    teach nothing of the trigger, nor are cover images. A clean-label attack relabels none, so it
    has `training_asr` instead: the ASR on training images of the other classes, which it never
    poisoned.
    """
    taught = attack.taught(victim, train, run)
    found: dict[str, Rate] = {}
    if attack.clean_label:
        stamped = attack.triggered(taught["clean"], victim.learned)
        if len(stamped.goals):
            found["training_asr"] = measure.attack_rates(victim.model, stamped, run)[0]
    return found | {
        kind: measure.accuracy(victim.model, images, run)
        for kind, images in taught.items()
        if len(images)
    }


def completed(
    attack: Attack, victim: Victim, train: Images, test: Images | None, run: Run
) -> Victim:
    """`victim` with what it was taught, and the images of `test` with the trigger if there are any.

    Warns where it learned too little.
    """
    taught = learned(attack, victim, train, run)
    warn_of_weakness(taught)
    if test is None:
        return replace(victim, taught=taught)
    shown = test, victim.learned
    triggered, elsewhere = attack.triggered(*shown), attack.elsewhere(*shown)
    return replace(victim, triggered=triggered, elsewhere=elsewhere, taught=taught)


def lacking(learned: Mapping[str, Rate]) -> list[str]:
    """The kinds of training images that the victim learned less of than it should have."""
    return [
        kind for kind, wanted in LEARNED.items() if kind in learned and learned[kind].value < wanted
    ]


def warn_of_weakness(learned: Mapping[str, Rate]) -> None:
    """Warns where the victim learned less than it should have."""
    for kind in lacking(learned):
        warnings.warn(
            f"the victim learned {100 * learned[kind].value:.1f} % of its "
            f"{CALLED.get(kind, kind)} training "
            f"images, less than {100 * LEARNED[kind]:.0f} %: it flatters every defense; train for "
            "longer (-p epochs=N)",
            UnbackdoorWarning,
            stacklevel=2,
        )


def poisoned(
    attack: Attack, model: nn.Module | None, train: Images, judged: Images | None, run: Run
) -> Poison:
    """Poisoned data without a victim, and test images `judged` with the trigger.

    `model` is what a trigger is learned on, if it is learned on a network.
    """
    network = nn.Identity() if model is None else unwrapped(model)
    learned = attack.recalled(network, train, run)
    found = attack.poison(train, run, learned)
    if judged is None:
        return Poison(found, None, learned)
    stamped, others = attack.triggered(judged, learned), attack.elsewhere(judged, learned)
    return Poison(found, stamped, learned, others)
