"""What a grid is made of: data sets, victims, cells and scans.

A declaration is all that decides numbers. Defaults of the methods are part of it;
the machine, the order and where files lie are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .. import data
from ..core import method
from ..core.errors import ParameterError, UnknownNameError
from .store import Kind, identity

Table = dict[str, Any]
Part = TypeVar("Part", bound=BaseModel)


class Strict(BaseModel):
    """A part of the grid file; a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Data(Strict):
    """A data set: where its images are, and which of them the defender gets."""

    name: str = Field(pattern=r"^[\w.-]+$", description="what tables and pages call it")
    train: str = Field(description="source of the training images")
    test: str | None = Field(None, description="source of the test images")
    judge: float = Field(
        0, ge=0, lt=1, description="share of the images of `train` that is the test set instead"
    )
    size: int | None = Field(None, ge=1, description="height and width to resize to")
    flip: bool | None = Field(
        None, description="whether a mirrored image is of its class still; null: the source knows"
    )
    reserve: float = Field(
        0, ge=0, lt=1, description="share of the training images kept from the victim, for budgets"
    )
    training: Table = {}
    tuning: Table = {}
    defenses: dict[str, Table] = {}
    """Parameters that single defenses take on this data set, by name."""

    def declaration(self) -> Table:
        """What decides the images."""
        unset = set() if self.judge else {"judge"}
        return self.model_dump(
            mode="json", exclude={"flip", "training", "tuning", "defenses", *unset}
        )

    @model_validator(mode="after")
    def _judged_once(self) -> Data:
        if bool(self.judge) == bool(self.test):
            raise ValueError("needs test images: `test`, or `judge`, a share of `train`; not both")
        return self

    def settings(self, shared: Table, own: Table) -> Table:
        """The `shared` settings of a grid, those of this data set, and whether it is mirrored."""
        known = {} if data.mirrored(self.train) else {"flip": False}
        said = {} if self.flip is None else {"flip": self.flip}
        return {**known, **shared, **said, **own}


@dataclass(frozen=True)
class Victim:
    """A model to plant, to train clean (`attack` is None), or `given`; all values are JSON's."""

    data: Table
    architecture: Table
    attack: Table | None
    training: Table | None
    seed: int
    precision: str
    min_asr: float
    """Below it the victim is called weak. It decides no weight: it is no part of the identity."""
    title: str
    """Data, network, attack, rate, and what tells them apart in the grid. No part of it, either."""
    given: Table | None = None
    """Of a model that is there already: hashes of its files, and what it takes."""
    files: Table | None = None
    """Where these files lie. No part of the identity: a file may be moved."""
    start: Table | None = None
    """What it is fine-tuned from: `sha256` of a checkpoint, or `training` of the clean model."""
    clean: Victim | None = None
    """The clean model that it starts from or is compared with. No part of the identity."""
    contents: Table | None = None
    """Hashes of the files that the attack names, where it names any."""
    measures: tuple[str, ...] = ()
    """What the grid asks for beside ACC, ASR and RA. No part of the identity, either."""
    flip: bool = True
    """Of a model that is there already: whether its images may be mirrored. No part, either."""

    def declaration(self) -> Table:
        """Everything that decides its weights."""
        told = {field.name: getattr(self, field.name) for field in fields(self)}
        unset = [name for name in ("given", "start", "contents") if told[name] is None]
        for name in ("min_asr", "title", "files", "clean", "measures", "flip", *unset):
            del told[name]
        return told

    @property
    def needs(self) -> Victim | None:
        """The clean model that must be there before it can be planted and measured."""
        started = self.start is not None and "training" in self.start
        return self.clean if started or self.measures else None

    @cached_property
    def id(self) -> str:
        """What stands for it."""
        return identity({"victim": self.declaration()})


@dataclass(frozen=True)
class Cell:
    """One repair to try: of which victim, with what, given how many clean images.

    `budget` is a count of images, or below 1 a share of the training images.
    """

    victim: Victim
    defense: Table
    budget: int | float
    method: str
    """The defense and what the grid asks of it, as `fmp p=32`. It is no part of the identity."""
    clean: Table | None = None
    """How the clean images differ from the data set's; None where they do not."""
    source: str | None = None
    """Where the file of `clean` lies, if it names one. No part of the identity."""
    kind: ClassVar[Kind] = "cells"
    """Where its result lies."""

    def declaration(self) -> Table:
        """Everything that decides its numbers."""
        return {
            "victim": self.victim.declaration(),
            "defense": self.defense,
            "budget": self.budget,
            **({"clean": self.clean} if self.clean else {}),
        }

    @cached_property
    def id(self) -> str:
        """What stands for it."""
        return identity({"cell": self.declaration()})

    @property
    def follows(self) -> Cell | None:
        """The cell of the defense that a control prunes as many channels as; None for others."""
        like = self.defense.get("like") if self.defense.get("control") else None
        return replace(self, defense=like, method=like["name"]) if like else None

    @property
    def title(self) -> str:
        """Its victim, method, budget and seed, for a person and for `--only`."""
        shown = f"{self.budget:g}" + (f" {self.clean['name']}" if self.clean else "")
        parts = (self.victim.title, self.method, shown)
        return "/".join((*parts, f"seed{self.victim.seed}"))


@dataclass(frozen=True)
class Scan(Cell):
    """One look to take: of which scanner, at what model, with how many clean images.

    `defense` is the declaration of the scanner, `method` its name.
    """

    kind: ClassVar[Kind] = "scans"

    def declaration(self) -> Table:
        """Everything that decides its numbers."""
        told = super().declaration()
        told["scanner"] = told.pop("defense")
        return told

    @cached_property
    def id(self) -> str:
        """What stands for it."""
        return identity({"scan": self.declaration()})


def strict(part: type[Part], where: str, told: Mapping[str, Any]) -> Part:
    """`told` as a part of the grid; raises `ParameterError` or `UnknownNameError`."""
    for key in told:
        if key not in part.model_fields:
            raise UnknownNameError.of(f"key of {where}", key, part.model_fields)
    try:
        return part.model_validate(dict(told))
    except ValidationError as error:
        raise ParameterError(method.one_line(where, error)) from None
