"""What clean models of a kind score: the numbers that a verdict compares with.

A calibration is data, never code: JSON, checked field by field. The one of the package lies beside
this file; `scan --calibrate` makes others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, JsonValue, ValidationError
from torch import nn

from ...core.errors import ParameterError
from ...core.method import Method
from ...core.spec import Spec
from ...core.text import line

SHIPPED = Path(__file__).with_name("calibration.json")
LARGEST = 16 * 2**20
"""Bytes of a file that is read at all."""

Text = Annotated[str, Field(max_length=300)]


class Scores(BaseModel):
    """What one scanner, declared in full, gave clean models of a kind."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    declaration: dict[Text, JsonValue]
    scores: list[FiniteFloat] = Field(min_length=1, max_length=100_000)


class Kind(BaseModel):
    """Clean models of one architecture, with the same options and as many classes.

    `models` says what they are, for a person.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    arch: Text
    options: dict[Text, JsonValue] = Field(max_length=50)
    classes: int = Field(ge=2, le=1_000_000)
    models: Text
    scanners: dict[Text, Scores] = Field(max_length=100)

    def fits(self, spec: Spec) -> bool:
        """Whether a model of `spec` is of this kind."""
        return (self.arch, self.options, self.classes) == (
            spec.arch,
            _plain(spec.options),
            len(spec.classes),
        )


class Calibration(BaseModel):
    """The kinds that are known."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal[1]
    kinds: list[Kind] = Field(max_length=10_000)

    def kind_of(self, model: nn.Module) -> Kind | None:
        """The kind that `model` is of, by its architecture, options and number of classes."""
        spec = getattr(model, "spec", None)
        if not isinstance(spec, Spec):
            return None
        return next((kind for kind in self.kinds if kind.fits(spec)), None)


def known(kind: Kind | None, scanner: Method) -> list[float] | None:
    """The scores of clean models of `kind` by just this `scanner`, if they are known."""
    found = kind.scanners.get(scanner.name()) if kind else None
    if found is None or found.declaration != scanner.declaration():
        return None
    return found.scores


def of_every_kind(calibration: Calibration, scanner: Method) -> list[list[float]]:
    """The scores of clean models by just this `scanner`, kind by kind."""
    return [scores for kind in calibration.kinds if (scores := known(kind, scanner))]


def read(path: Path) -> Calibration:
    """The calibration in a file; raises `ParameterError` where it is none."""
    try:
        if path.exists() and not path.is_file():  # a pipe or a device has no end
            raise ParameterError(f"{path} cannot be read: it is not a file")
        if path.stat().st_size > LARGEST:
            raise ParameterError(f"{path} is too large for a calibration")
        data = path.read_bytes()
    except OSError as error:
        raise ParameterError(f"{path} cannot be read: {error.strerror}") from None
    try:
        return Calibration.model_validate(json.loads(data))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))[:200]
        reason = line(f"{place}: {first['msg'].lower()}" if place else first["msg"], 300)
        raise ParameterError(f"{path} is no calibration: {reason}") from None
    except (ValueError, RecursionError):
        raise ParameterError(f"{path} is no calibration: not JSON") from None


@cache
def shipped() -> Calibration:
    """The calibration of the package."""
    return read(SHIPPED)


def made(model: nn.Module, scores: Mapping[Method, list[float]], models: str) -> Calibration:
    """The calibration of the kind of `model`, from the scores that clean models got."""
    spec = getattr(model, "spec", None)
    assert isinstance(spec, Spec)
    kind = Kind(
        arch=spec.arch,
        options=_plain(spec.options),
        classes=len(spec.classes),
        models=models,
        scanners={
            scanner.name(): Scores(declaration=scanner.declaration(), scores=sorted(found))
            for scanner, found in scores.items()
        },
    )
    return Calibration(format=1, kinds=[kind])


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as JSON holds them."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(options), default=str))
    return plain
