"""`[[controls]]`: prunings that no defender could or would try, to judge real defenses by.

Random pruning knows nothing of the backdoor: a defense that prunes must beat it. The oracle prunes
the channels that the trigger changes most (TAC). It sees the trigger, which no defense may, so it
lives here: it shows how much pruning can reach.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, PrivateAttr, model_validator
from torch import Tensor, nn

from ..core import method
from ..core.errors import UnknownNameError
from ..core.images import Images, to_float
from ..core.method import Method
from ..core.run import Run
from ..defenses.base.defense import Defense, Repair, Tuning
from ..defenses.base.plain import Plain
from ..defenses.base.spared import narrow, said
from ..network.channels import Mask, silence_
from ..network.layers import Layer, find_layers
from .measures import Probe, top
from .outcome import ControlFailedError, pruned
from .store import Record


class Control(Plain):
    """Channels of every layer are silenced and held silent, then the model is fine-tuned."""

    control: ClassVar[bool] = True
    sees_trigger: ClassVar[bool]

    p: int | None = Field(None, ge=1, description="silence one channel in `p` of each layer")
    like: dict[str, Any] | None = Field(
        None, description="or as many of each layer as this defense of the grid did"
    )
    _mask: Mask = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _says_how_many(self) -> Self:
        if (self.p is None) == (self.like is None):
            raise ValueError("give either p or like, the name of a defense of the grid")
        return self

    def declaration(self) -> dict[str, Any]:
        """Its name, every field, and that it is a control."""
        return {**super().declaration(), "control": True}

    def aimed(
        self, model: nn.Module, probe: Probe | None, test: Images, followed: Record | None, run: Run
    ) -> Defense:
        """The control with the channels chosen that it will silence in `model`.

        `followed` is the result of the defense `like`, on the same model and clean images. Raises
        `ControlFailedError` where that failed or pruned nothing, or where `p` takes no channel.
        """
        layers = find_layers(model, to_float(test.pixels[:2]))
        counts = _counts(layers, followed) if self.like else {}
        scores = self.scores(layers, probe, run)
        found = self.model_copy()
        found._mask = {
            layer.name: _highest(
                scores[layer.name],
                counts[layer.name] if self.like else layer.channels // (self.p or 1),
            )
            for layer in layers
        }
        self._say([layer for layer in layers if not found._mask[layer.name].any()], layers)
        return found

    def _say(self, spared: Sequence[Layer], layers: Sequence[Layer]) -> None:
        """Warns of layers too narrow for `p`; raises `ControlFailedError` where all are."""
        if self.p is None or not spared:  # of those of `like`, what it follows has told
            return
        what = said(spared, layers, narrow(f"p = {self.p}"))
        if len(spared) == len(layers):
            raise ControlFailedError(f"{self.name()} {what}")
        self._warn(what)

    @abstractmethod
    def scores(
        self, layers: Sequence[Layer], probe: Probe | None, run: Run
    ) -> Mapping[str, Tensor]:
        """By layer name a score `[channels]`; the channels with the highest are silenced."""

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """Silences the chosen channels and fine-tunes the others."""
        layers = find_layers(model, to_float(clean.pixels[:2]))
        silence_(model, layers, self._mask)
        if self.epochs:
            self.tune(model, clean, run, lambda tuned: silence_(tuned, layers, self._mask))
        return Repair(model, self._mask)


class RandomPruning(Control):
    """Control: silences channels of each layer at random, then fine-tunes."""

    paper: ClassVar[str] = "none: a control of this bench"
    limits: ClassVar[str] = "knows nothing of the backdoor; a defense that prunes must beat it"
    sees_trigger: ClassVar[bool] = False

    @classmethod
    def name(cls) -> str:
        """The name that a grid calls it by."""
        return "random_pruning"

    def scores(
        self, layers: Sequence[Layer], probe: Probe | None, run: Run
    ) -> Mapping[str, Tensor]:
        """Random ones."""
        rng = run.rng("random pruning")
        return {layer.name: torch.rand(layer.channels, generator=rng) for layer in layers}


class Oracle(Control):
    """Control: silences the channels that the trigger changes most (TAC), then fine-tunes."""

    paper: ClassVar[str] = "none: a control of this bench; TAC is of Zheng et al., 2208.03111"
    limits: ClassVar[str] = "sees the trigger, which no defender has; it is no defense"
    sees_trigger: ClassVar[bool] = True

    @classmethod
    def name(cls) -> str:
        """The name that a grid calls it by."""
        return "oracle"

    def scores(
        self, layers: Sequence[Layer], probe: Probe | None, run: Run
    ) -> Mapping[str, Tensor]:
        """The trigger-activated change of each channel."""
        assert probe is not None
        return probe.changes


TUNING = frozenset(Plain.model_fields) - frozenset(Defense.model_fields)
"""The fields of the field's fine-tuning, which every control has."""

CONTROLS: dict[str, type[Control]] = {found.name(): found for found in (RandomPruning, Oracle)}


def find(name: str) -> type[Method]:
    """The control or the defense called `name`."""
    return CONTROLS.get(name) or method.find("defense", name)


def build(table: Mapping[str, Any]) -> Defense:
    """The control or defense that `table` declares.

    Raises `UnknownNameError` for an unknown name or field, `ParameterError` for a value that
    makes no sense.
    """
    told = {key: value for key, value in table.items() if key not in ("name", "control")}
    cls = CONTROLS.get(table["name"])
    found = method.made(cls, told) if cls else method.build("defense", table["name"], told)
    assert isinstance(found, Defense)
    return found


def tuning(followed: Mapping[str, Any] | None) -> dict[str, Any]:
    """How the defense `followed` is fine-tuned, if it is: its control is tuned in the same way."""
    found = build(followed) if followed else None
    if not isinstance(found, Tuning):
        return {}
    told = {key: value for key, value in found if key in TUNING}
    return {"final_lr": 0.0, **told}


def check(name: str) -> type[Control]:
    """The control called `name`; raises `UnknownNameError` with the nearest name."""
    if name not in CONTROLS:
        raise UnknownNameError.of("control", name, CONTROLS)
    return CONTROLS[name]


def _counts(layers: Sequence[Layer], followed: Record | None) -> dict[str, int]:
    """How many channels of each layer the result `followed` pruned, there or in its norms."""
    assert followed is not None
    name = followed["cell"]["defense"]["name"]
    if followed["status"] == "failed":
        raise ControlFailedError(f"{name}, which it follows, failed: {followed['error']}")
    gone = {layer["name"]: set(layer["silenced"]) for layer in pruned(followed)}
    found = {
        layer.name: len(set().union(*(gone.get(part or "", set()) for part in _parts(layer))))
        for layer in layers
    }
    if not any(found.values()):
        raise ControlFailedError(f"{name}, which it follows, pruned no channel of a layer")
    return found


def _parts(layer: Layer) -> tuple[str | None, ...]:
    return (layer.name, layer.norm, *layer.other_norms)


def _highest(scores: Tensor, count: int) -> Tensor:
    """Bool `[channels]`, True at the `count` highest scores."""
    mask = torch.zeros(len(scores), dtype=torch.bool)
    mask[top(scores, count)] = True
    return mask
