"""A grid: a TOML file of data, networks, attacks, defenses, scanners and seeds; lists multiply.

Out come cells. A cell is its declaration: all that decides its numbers, defaults of the methods
included, and nothing that does not, such as the machine or the order.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, create_model

from .. import data, models
from ..attacks.base.attack import Attack
from ..core.errors import ParameterError, UnknownNameError
from ..core.foreign import told_as
from ..core.spec import Spec
from . import given, starts, tries
from .asked import Measure
from .cell import Cell, Data, Strict, Table, Victim, strict
from .entries import MOST_TABLES, labelled, tables

MOST_BYTES, MOST_CELLS = 2**22, 100_000
"""Of a grid: its file, and all that its lists multiply to."""

MOST_DOTS = 2_000

NO_ATTACK = "none"
"""What a clean model goes by: it is part of every grid, and was never attacked."""


class Grid(Strict):
    """The grid file as it is written; `cells` multiplies it out."""

    data: list[Any] = Field([], max_length=MOST_TABLES)
    architectures: list[Any] = Field([], max_length=MOST_TABLES)
    attacks: list[Any] = Field([], max_length=MOST_TABLES)
    victims: list[Any] = Field([], max_length=MOST_TABLES)
    defenses: list[Any] = Field([], max_length=MOST_TABLES)
    scanners: list[Any] = Field([], max_length=MOST_TABLES)
    controls: list[Any] = Field([], max_length=MOST_TABLES)
    rates: list[float] = Field([], max_length=MOST_TABLES)
    budgets: list[int | float] = Field([0.05], min_length=1, max_length=MOST_TABLES)
    clean: list[Any] = Field([], max_length=MOST_TABLES)
    closed: bool = False
    seeds: list[int] = Field([0, 1, 2], min_length=1, max_length=MOST_TABLES)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    min_asr: float = Field(0.9, ge=0, le=1)
    training: Table = Field({})
    tuning: Table = Field({})
    measures: list[Measure] = Field([])


SETTINGS = ("epochs", "lr", "batch", "weight_decay", "flip")
Training: type[Strict] = create_model(
    "Training",
    __base__=Strict,
    **{name: (Attack.model_fields[name].annotation, Attack.model_fields[name]) for name in SETTINGS}
    | {"epochs": (int, Field(100, ge=0))},
)  # type: ignore[call-overload]
"""How clean models are trained: the fields, bounds and defaults that every attack has.

No epochs leave a checkpoint that they start from as it is.
"""


class Own(Strict):
    """Keys of an architecture that are no options of the network."""

    start: Any = None
    training: Table = Field({})


def read(path: Path) -> Grid:
    """The grid in a file; raises `ParameterError` or `UnknownNameError` for one that is none."""
    try:
        if path.exists() and not path.is_file():
            raise ParameterError(f"cannot read {path}: it is not a file")
        if path.stat().st_size > MOST_BYTES:
            raise ParameterError(f"{path} is larger than {MOST_BYTES >> 20} MiB")
        text = path.read_text(encoding="utf-8")
        # What Python's reader takes for a key of many dots grows with their square.
        if max((line.count(".") for line in text.splitlines()), default=0) > MOST_DOTS:
            raise ParameterError(f"{path} has a line of more than {MOST_DOTS:,} dots")
        told = tomllib.loads(text)
    except OSError as error:
        raise ParameterError(f"cannot read {path}: {error.strerror or error}") from None
    except RecursionError:
        raise ParameterError(
            f"{path} is no TOML that is read here: it is nested too deep"
        ) from None
    except ParameterError:
        raise
    except ValueError as error:
        raise ParameterError(f"{path} is no TOML: {error}") from None
    return strict(Grid, path.name, told)


def cells(grid: Grid, folder: Path = Path(), *, trust_code: bool = False) -> list[Cell]:
    """Every cell of the grid once, a whole seed before the next, those of a victim together.

    Paths of `[[victims]]`, and of `[[data]]` with a `$NAME`, start from `folder`, that of the grid
    file. Raises `ParameterError` for a grid that names code (`arch = "mynet.py:Net"`), unless
    `trust_code` says to run it.
    """
    if not trust_code:
        _refuse_code(grid)
    with told_as(ParameterError, "the grid cannot be read"):
        return _cells(grid, folder)


def _cells(grid: Grid, folder: Path) -> list[Cell]:
    found: dict[str, Cell] = {}
    count = 0
    places = [(place, _data(table)) for place, table in labelled(tables("data", grid.data))]
    named = labelled(tables("architectures", grid.architectures), *Own.model_fields)
    networks = [(net, *_network(table)) for net, table in named]
    there = given.found(grid.victims, [data_set for _, data_set in places], folder)
    if not there and not (places and networks):
        raise ParameterError("the grid has no models: it needs data and architectures, or victims")
    if not grid.defenses and not grid.scanners:
        raise ParameterError("the grid has nothing to try: it needs defenses or scanners")
    if grid.attacks and not networks:
        raise ParameterError("the grid has attacks, but no architectures to plant them in")
    for seed in grid.seeds:
        planted = _planted(grid, places, networks, seed, folder)
        ready = ((data_set, model.victim(seed, grid)) for data_set, model in there)
        for data_set, victim in (*planted, *ready):
            for cell in tries.of(grid, data_set, victim, folder):
                count += 1
                if count > MOST_CELLS:
                    raise ParameterError(f"the grid has more than {MOST_CELLS:,} cells")
                found.setdefault(cell.id, cell)
    return list(found.values())


def _refuse_code(grid: Grid) -> None:
    """A grid is a file, perhaps a stranger's: what it names is not run because it says so."""
    named = [
        entry if isinstance(entry, str) else entry.get(key)
        for entries, key in ((grid.architectures, "name"), (grid.victims, "arch"))
        for entry in entries
        if isinstance(entry, str | dict)
    ]
    for name in named:
        if isinstance(name, str) and models.names_code(name):
            raise ParameterError(
                f"the grid names code, {name}, which would be run; "
                "--trust-code runs it, if you trust whoever wrote the grid"
            )


def _planted(
    grid: Grid,
    sets: Sequence[tuple[str, Data]],
    networks: Sequence[tuple[str, Table, Own]],
    seed: int,
    folder: Path,
) -> Iterator[tuple[Data, Victim]]:
    """Every model that the bench trains itself, with one seed; each clean one before its victims.

    Checkpoints that training starts from lie at paths from `folder`.
    """
    for (place, of_all), (net, network, own) in product(sets, networks):
        data_set = of_all.model_copy(update={"training": {**of_all.training, **own.training}})
        places = given.places(of_all, folder)
        table, files, clean = None, None, None
        for name, attack, trained in _attacks(grid, data_set):
            told = (data_set.declaration(), network, attack, trained, seed, grid.precision)
            title = f"{place}/{net}/{name}"
            found = Victim(
                *(*told, grid.min_asr, title), files=places, contents=tries.contents(attack)
            )
            if clean is None:
                clean = starts.published(own.start, found, folder)
                table, files = starts.read(_start(grid, data_set), clean, folder)
                yield data_set, clean
            else:
                if clean.start and not table:
                    raise ParameterError(
                        f"architecture {net} has a start, but nothing says what victims start "
                        'from: [training] start = "clean", or a path'
                    )
                more: Table = {"start": table, "files": places | (files or {}), "clean": clean}
                yield data_set, replace(found, measures=tuple(grid.measures), **more)


def chosen(every: Sequence[Cell], pattern: str | None) -> list[Cell]:
    """The cells whose title or id holds `pattern`, in which `*` stands for anything."""
    if pattern is None:
        return list(every)
    wanted = f"*{pattern}*"
    found = [cell for cell in every if fnmatchcase(f"{cell.title} {cell.id}", wanted)]
    if not found:
        raise ParameterError(f"none of {len(every)} cells matches {pattern!r}: {every[0].title}")
    return found


def _data(table: Table) -> Data:
    name = table["name"]
    if "train" not in table and "test" not in table:
        if name not in data.names():
            raise UnknownNameError.of("data set", name, data.names())
        table = {"train": f"{name}:train", "test": f"{name}:test", **table}
    return strict(Data, f"data {name}", table)


def _network(table: Table) -> tuple[Table, Own]:
    """(name and options of an architecture that can be built, how its models are trained)."""
    options = dict(table)
    name = options.pop("name")
    own = {key: options.pop(key) for key in Own.model_fields if key in options}
    with torch.device("meta"):
        models.create(Spec(name, ("0", "1"), (0.0,), (1.0,), options))
    return {"name": name, "options": options}, strict(Own, f"architecture {name}", own)


def _attacks(grid: Grid, data_set: Data) -> Iterator[tuple[str, Table | None, Table | None]]:
    """(label, declaration, None) of each attack, after (label, None, settings) of a clean model."""
    given = data_set.settings(grid.training, data_set.training)
    given.pop("start", None)
    yield NO_ATTACK, None, strict(Training, "training", given).model_dump(mode="json")
    for label, table in labelled(tables("attacks", grid.attacks), "rate"):
        rates: list[Table] = [{"rate": rate} for rate in grid.rates] or [{}]
        for rate in [{}] if {"rate", "class_rate", "count"} & table.keys() else rates:
            found = tries.declared("attack", {**given, **rate, **table})
            share = f"/{found['rate']:g}" if found.get("rate") and "count" not in table else ""
            yield label + share, found, None


def _start(grid: Grid, data_set: Data) -> Any:
    """What the planted victims of a data set start from; None for fresh weights."""
    return {**grid.training, **data_set.training}.get("start")
