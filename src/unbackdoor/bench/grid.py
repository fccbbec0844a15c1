"""A grid: a TOML file of data, networks, attacks, defenses and seeds; every list multiplies.

Out come cells. A cell is its declaration: all that decides its numbers, defaults of the methods
included, and nothing that does not, such as the machine or the order.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from .. import data, models
from ..attacks.base.attack import Attack
from ..core import method
from ..core.errors import ParameterError, UnknownNameError
from ..core.spec import Spec
from ..defenses.base.defense import Defense, Tuning
from .clean_sets import CleanSet
from .store import identity

Table = dict[str, Any]
Part = TypeVar("Part", bound=BaseModel)
NO_ATTACK = "none"
"""What a clean model goes by: it is part of every grid, and was never attacked."""


class Strict(BaseModel):
    """A part of the grid file; a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Data(Strict):
    """A data set: where its images are, and which of them the defender gets."""

    name: str = Field(pattern=r"^[\w.-]+$", description="what tables and pages call it")
    train: str = Field(description="source of the training images")
    test: str = Field(description="source of the test images")
    size: int | None = Field(None, ge=1, description="height and width to resize to")
    reserve: float = Field(
        0, ge=0, lt=1, description="share of the training images kept from the victim, for budgets"
    )
    training: Table = {}
    tuning: Table = {}

    def declaration(self) -> Table:
        """What decides the images."""
        return self.model_dump(mode="json", exclude={"training", "tuning"})


class Grid(Strict):
    """The grid file as it is written; `cells` multiplies it out."""

    data: list[Any] = Field(min_length=1)
    architectures: list[Any] = Field(min_length=1)
    attacks: list[Any] = []
    defenses: list[Any] = Field(min_length=1)
    rates: list[float] = []
    budgets: list[int | float] = Field([0.05], min_length=1)
    clean: list[Any] = []
    closed: bool = False
    seeds: list[int] = Field([0, 1, 2], min_length=1)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    min_asr: float = Field(0.9, ge=0, le=1)
    training: Table = {}
    tuning: Table = {}


SETTINGS = ("epochs", "lr", "batch", "weight_decay", "flip")
Training: type[Strict] = create_model(
    "Training",
    __base__=Strict,
    **{
        name: (Attack.model_fields[name].annotation, Attack.model_fields[name]) for name in SETTINGS
    },
)  # type: ignore[call-overload]
"""How clean models are trained: the fields, bounds and defaults that every attack has."""

TUNING = frozenset(Tuning.model_fields) - frozenset(Defense.model_fields)


@dataclass(frozen=True)
class Victim:
    """A model to plant, or to train clean where `attack` is None; all values are JSON's."""

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

    def declaration(self) -> Table:
        """Everything that decides its weights."""
        names = (field.name for field in fields(self) if field.name not in ("min_asr", "title"))
        return {name: getattr(self, name) for name in names}

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
    def title(self) -> str:
        """Its victim, method, budget and seed, for a person and for `--only`."""
        shown = f"{self.budget:g}" + (f" {self.clean['name']}" if self.clean else "")
        parts = (self.victim.title, self.method, shown)
        return "/".join((*parts, f"seed{self.victim.seed}"))


def read(path: Path) -> Grid:
    """The grid in a file; raises `ParameterError` or `UnknownNameError` for one that is none."""
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParameterError(f"cannot read {path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path} is no TOML: {error}") from None
    return _strict(Grid, path.name, told)


def cells(grid: Grid) -> list[Cell]:
    """Every cell of the grid once, a whole seed before the next, those of a victim together."""
    found: dict[str, Cell] = {}
    places = [(place, _data(table)) for place, table in _labelled(_tables("data", grid.data))]
    tables = _labelled(_tables("architectures", grid.architectures))
    networks = [(net, _network(table)) for net, table in tables]
    for seed, (place, data_set), (net, network) in product(grid.seeds, places, networks):
        defenses = _defenses(grid, data_set)
        for name, attack, training in _attacks(grid, data_set):
            told = (data_set.declaration(), network, attack, training, seed, grid.precision)
            victim = Victim(*told, grid.min_asr, f"{place}/{net}/{name}")
            sets = [None, *_clean_sets(grid, attack)]
            for clean, budget, (label, defense) in product(sets, grid.budgets, defenses):
                cell = Cell(victim, defense, _budget(budget), label, clean)
                found.setdefault(cell.id, cell)
    return list(found.values())


def chosen(every: Sequence[Cell], pattern: str | None) -> list[Cell]:
    """The cells whose title or id holds `pattern`, in which `*` stands for anything."""
    if pattern is None:
        return list(every)
    wanted = f"*{pattern}*"
    found = [cell for cell in every if fnmatchcase(f"{cell.title} {cell.id}", wanted)]
    if not found:
        raise ParameterError(f"none of {len(every)} cells matches {pattern!r}: {every[0].title}")
    return found


def _strict(part: type[Part], where: str, told: Mapping[str, Any]) -> Part:
    for key in told:
        if key not in part.model_fields:
            raise UnknownNameError.of(f"key of {where}", key, part.model_fields)
    try:
        return part.model_validate(dict(told))
    except ValidationError as error:
        raise ParameterError(method.one_line(where, error)) from None


def _tables(where: str, entries: Sequence[Any]) -> Iterator[Table]:
    """The entries as tables that hold no list: a text is a name, and every list multiplies."""
    for entry in entries:
        table = {"name": entry} if isinstance(entry, str) else entry
        if not isinstance(table, dict) or not isinstance(table.get("name"), str):
            raise ParameterError(f"{where} wants names or tables with a name, got {entry!r}")
        keys = list(table)
        lists = [value if isinstance(value, list) else [value] for value in table.values()]
        if not all(lists):
            raise ParameterError(f"{where}: {table['name']} has an empty list, so no cells")
        for values in product(*lists):
            yield dict(zip(keys, values, strict=True))


def _labelled(tables: Iterable[Table], *apart: str) -> Iterator[tuple[str, Table]]:
    """Each table after its name and what tells it from others of that name: `badnets size=4`.

    What is told `apart` is left out; a count never is.
    """
    every = list(tables)
    for table in every:
        others = [other for other in every if other["name"] == table["name"]]
        told = (
            f" {key}={value}"
            for key, value in table.items()
            if key == "count" or (key not in apart and any(o.get(key) != value for o in others))
        )
        yield table["name"] + "".join(told), table


def _data(table: Table) -> Data:
    name = table["name"]
    if "train" not in table and "test" not in table:
        if name not in data.names():
            raise UnknownNameError.of("data set", name, data.names())
        table = {"train": f"{name}:train", "test": f"{name}:test", **table}
    return _strict(Data, f"data {name}", table)


def _network(table: Table) -> Table:
    """The name and options of an architecture that can be built."""
    name = table["name"]
    options = {key: value for key, value in table.items() if key != "name"}
    with torch.device("meta"):
        models.create(Spec(name, ("0", "1"), (0.0,), (1.0,), options))
    return {"name": name, "options": options}


def _attacks(grid: Grid, data_set: Data) -> Iterator[tuple[str, Table | None, Table | None]]:
    """(label, declaration, None) of each attack, after (label, None, settings) of a clean model."""
    given = {**grid.training, **data_set.training}
    yield NO_ATTACK, None, _strict(Training, "training", given).model_dump(mode="json")
    for label, table in _labelled(_tables("attacks", grid.attacks), "rate"):
        rates: list[Table] = [{"rate": rate} for rate in grid.rates] or [{}]
        for rate in [{}] if {"rate", "count"} & table.keys() else rates:
            found = _declared("attack", {**given, **rate, **table})
            share = f"/{found['rate']:g}" if "rate" in found and "count" not in table else ""
            yield label + share, found, None


def _defenses(grid: Grid, data_set: Data) -> list[tuple[str, Table]]:
    given = {**grid.tuning, **data_set.tuning}
    for key in given:
        if key not in TUNING:
            raise UnknownNameError.of("key of tuning", key, TUNING)
    found = []
    for table in _tables("defenses", grid.defenses):
        tunes = issubclass(method.find("defense", table["name"]), Tuning)
        declared = _declared("defense", {**given, **table} if tunes else table)
        own = (f" {key}={value}" for key, value in table.items() if key != "name")
        found.append((table["name"] + "".join(own), declared))
    return found


def _clean_sets(grid: Grid, attack: Table | None) -> list[Table]:
    """The declarations of the clean sets; without an attack none that differ by its stamp alone."""
    found = [_strict(CleanSet, "clean", table) for table in _tables("clean", grid.clean)]
    return [one.model_dump(mode="json") for one in found if attack or not one.stamped]


def _declared(role: method.Role, table: Table) -> Table:
    parameters = {key: value for key, value in table.items() if key != "name"}
    return method.build(role, table["name"], parameters).declaration()


def _budget(budget: int | float) -> int | float:
    if not (0 < budget < math.inf) or (budget >= 1 and budget != int(budget)):
        raise ParameterError(
            f"a budget is a share below 1 of the training images, or a count, got {budget!r}"
        )
    return int(budget) if budget >= 1 else budget
