"""Reading what the command line names, each checked against the model before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import api, evidence
from ..core import measure
from ..core.errors import ImagesError, ParameterError
from ..core.images import Images, Triggered
from ..core.measure import Score
from ..core.run import Run
from ..models import Normalized
from . import options


@dataclass(frozen=True)
class Described:
    """A checkpoint, and what the command line says of it that the file may not."""

    path: Path
    arch: str | None
    classes: str | None
    mean: str | None
    std: str | None
    options: Sequence[str] | None
    size: str | None = None
    weights: str | None = None

    def load(self) -> Normalized:
        """The model."""
        return api.load_model(
            self.path,
            arch=self.arch,
            classes=options.class_names(self.classes),
            mean=options.numbers("--mean", self.mean),
            std=options.numbers("--std", self.std),
            options=options.values("--model-option", self.options),
            size=options.size(self.size),
            weights=self.weights,
        )


@dataclass(frozen=True)
class Sources:
    """Where images come from; they take the size of the model, or of the first that are read."""

    model: Normalized
    run: Run
    download: bool
    columns: str | None = None

    def images(self, source: str, like: Images | None = None) -> Images:
        """The images of `source`, which must fit the model; what looks wrong is said."""
        return evidence.clean_images(
            self.model,
            source,
            self.run,
            like=like,
            download=self.download,
            columns=options.columns(self.columns),
        )

    def triggered(
        self, source: str | None, target: str | None, like: Images | None = None
    ) -> Triggered | None:
        """The triggered images of `source`, which must fit the model; None without a source."""
        if source is None:
            return None
        found = api.load_triggered(
            source,
            options.goal(target, self.model.spec.classes),
            size=self._size(like),
            channels=self.model.channels,
            classes=self.model.spec.classes,
            columns=options.columns(self.columns),
        )
        measure.check(self.model, found.images)
        return found

    def _size(self, like: Images | None) -> tuple[int, int] | None:
        if self.model.spec.size is None and like is not None:
            return like.shape[1], like.shape[2]
        return self.model.spec.size


@dataclass(frozen=True)
class Bounds:
    """What the user asks of the result: the highest ASR and the largest loss of ACC, of 1."""

    max_asr: float | None
    max_acc_drop: float | None = None

    def check(self, triggered: str | None) -> None:
        """Raises `ParameterError` for a bound that cannot be measured."""
        if self.max_asr is not None and triggered is None:
            raise ParameterError("--max-asr needs triggered images (--triggered SRC --target K)")

    def missed(self, before: Score, after: Score) -> list[str]:
        """A line for every bound that the result misses."""
        found = []
        if self.max_asr is not None and after.asr and after.asr.value > self.max_asr:
            found.append(f"ASR is {after.asr.value:.4f}, above the bound {self.max_asr:g}")
        if self.max_acc_drop is not None and before.acc and after.acc:
            drop = before.acc.value - after.acc.value
            if drop > self.max_acc_drop:
                found.append(f"ACC fell by {drop:.4f}, more than the bound {self.max_acc_drop:g}")
        return found


def check_target(triggered: str | None, target: str | None) -> None:
    """Raises `ParameterError` for a goal without triggered images."""
    if triggered is None and target is not None:
        raise ParameterError("--target needs triggered images (--triggered SRC)")


def held_out(clean: Images, rng: torch.Generator) -> tuple[Images, Images]:
    """(the tenth of `clean` that measures ACC, the rest); at least one image each."""
    if len(clean) < 2:
        raise ImagesError("without --test at least 2 clean images are needed: one measures ACC")
    return clean.split(max(1, round(len(clean) / 10)), rng)
