"""Measuring a model of the bench, and saying what makes its numbers doubtful."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ..attacks.base.planting import lacking
from ..core import record
from ..core.images import Images, Triggered, to_float
from ..core.measure import Rate, Score, attack_rates, predictions
from ..core.modules import same_weights
from ..core.run import Run
from ..defenses.base.defense import Defense, Repair
from ..network.channels import Mask
from ..network.layers import find_layers
from .store import Record

ONE_CLASS = 0.99
"""A model that gives one class to more of the test images has stopped looking at them."""


@dataclass(frozen=True, eq=False)
class Judged:
    """The rates of a model, and the classes int64 `[n]` that it gives to the test images."""

    score: Score
    said: Tensor

    def flags(self, linear: Rate) -> Iterator[str]:
        """What is wrong with any model of such numbers, repaired or not."""
        if self.score.acc and self.score.acc.value < linear.value:
            yield "below-linear"
        if int(self.said.bincount().max()) > ONE_CLASS * len(self.said):
            yield "constant"


def judged(model: nn.Module, test: Images, stamped: Triggered | None, run: Run) -> Judged:
    """ACC on `test`, and ASR and RA on `stamped` where there is a trigger."""
    said = predictions(model, test, run)
    acc = Rate(int((said == test.labels).sum()), len(test))
    asr, ra = attack_rates(model, stamped, run) if stamped else (None, None)
    return Judged(Score(acc, asr, ra), said)


WEAK = "weak-victim"


def weak(asr: Rate | None, min_asr: float) -> Iterator[str]:
    """Whether the backdoor is too weak to test anything, by the bound of the grid that asks."""
    if asr is not None and asr.value < min_asr:
        yield WEAK


def of_victim(asr: Rate | None, learned: Mapping[str, Rate], min_asr: float) -> Iterator[str]:
    """What makes a model a poor test of a defense."""
    yield from weak(asr, min_asr)
    if lacking(learned):
        yield "undertrained-victim"


def of_repair(
    defense: Defense, victim: nn.Module, repair: Repair, after: Judged, linear: Rate, shared: int
) -> Iterator[str]:
    """What makes the result of a repair doubtful; `shared` clean images are test images."""
    yield from after.flags(linear)
    if shared:
        yield "leak"
    if same_weights(victim, repair.model):
        before, now = (
            repair.notes.get(f"held_out_acc_{when}", 1.0) for when in ("before", "after")
        )
        yield "destroyed" if before - now > defense.max_acc_drop else "unchanged"


def layers(victim: nn.Module, silenced: Mask, test: Images) -> list[Record]:
    """The channels of each layer that are `silenced`; nothing where none is."""
    if not any(bool(mask.any()) for mask in silenced.values()):
        return []
    found = find_layers(victim, to_float(test.pixels[:1]))
    channels = {layer.name: layer.channels for layer in found}
    channels |= {name: len(mask) for name, mask in silenced.items()}
    return record.of_layers(silenced, {}, channels)
