"""What a grid tries on each of its victims: defenses, controls and scanners, on which images."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from ..attacks.base.attack import Attack
from ..core import method
from ..core.errors import ParameterError, UnbackdoorWarning, UnknownNameError
from ..defenses.base.defense import Augmented, Defense
from ..defenses.base.plain import Plain
from . import controls
from .cell import Cell, Data, Scan, Table, Victim, strict
from .clean_sets import CleanSet
from .controls import TUNING
from .entries import labelled, tables
from .given import placed

if TYPE_CHECKING:
    from .grid import Grid

MOST_IMAGES = 2**40

AUGMENTATION = frozenset(Augmented.model_fields) - frozenset(Defense.model_fields)
"""Of `[tuning]`, what every defense takes that learns from augmented images."""


def of(grid: Grid, data_set: Data, victim: Victim, folder: Path) -> Iterator[Cell]:
    """The cells of a victim, one after another; its scans come last.

    Sources of clean images that name a variable start from `folder`.
    """
    defenses = _defenses(grid, data_set)
    defenses += _controls(grid, data_set, defenses, victim.attack)
    for budget, (label, defense) in product(grid.budgets, defenses):
        yield Cell(victim, defense, _budget(budget), label)
    for one in _clean_sets(grid, data_set, victim):
        place = placed(one.source, folder) if one.source else None
        for budget, (label, defense) in product(one.budgets(grid.budgets), defenses):
            yield Cell(victim, defense, _budget(budget), label, one.declaration(), place)
    for budget, (label, scanner) in product(grid.budgets, _scanners(grid)):
        yield Scan(victim, scanner, _budget(budget), label)


def _scanners(grid: Grid) -> list[tuple[str, Table]]:
    every = labelled(tables("scanners", grid.scanners))
    return [(label, declared("scanner", table)) for label, table in every]


def _defenses(grid: Grid, data_set: Data) -> list[tuple[str, Table]]:
    given = data_set.settings(grid.tuning, data_set.tuning)
    for key in given:
        if key not in TUNING:
            raise UnknownNameError.of("key of tuning", key, TUNING)
    for name, table in data_set.defenses.items():
        declared("defense", {"name": name, **table})
    found = []
    for table in tables("defenses", grid.defenses):
        own_of_data = data_set.defenses.get(table["name"], {})
        taken = _taken(method.find("defense", table["name"]), given)
        whole = declared("defense", {**taken, **own_of_data, **table})
        own = (f" {key}={value}" for key, value in table.items() if key != "name")
        found.append((table["name"] + "".join(own), whole))
    return found


def _taken(defense: type[method.Method], given: Table) -> Table:
    """What of `[tuning]` counts for a defense: all for plain fine-tuning, else the augmentation."""
    keys = TUNING if issubclass(defense, Plain) else AUGMENTATION
    return {key: value for key, value in given.items() if key in keys & defense.model_fields.keys()}


def _controls(
    grid: Grid, data_set: Data, defenses: Sequence[tuple[str, Table]], attack: Table | None
) -> list[tuple[str, Table]]:
    """(label, declaration) of each control; without an attack none that sees the trigger."""
    given, found = data_set.settings(grid.tuning, data_set.tuning), []
    for table in tables("controls", grid.controls):
        if controls.check(table["name"]).sees_trigger and attack is None:
            continue
        followed: list[tuple[str, Table | None]] = [("", None)]
        if "like" in table:
            followed = [pair for pair in defenses if table["like"] in (pair[0], pair[1]["name"])]
        if not followed:
            known = [told["name"] for _, told in defenses]
            raise UnknownNameError.of("defense to prune like", str(table["like"]), known)
        for label, like in followed:
            told = {**table, "like": label} if like else table
            own = (f" {key}={value}" for key, value in told.items() if key != "name")
            same = controls.tuning(like)
            whole = controls.build({**given, **same, **table, "like": like}).declaration()
            found.append((table["name"] + "".join(own), whole))
    return found


def _clean_sets(grid: Grid, data_set: Data, victim: Victim) -> list[CleanSet]:
    """The clean sets, without those that this victim cannot have."""
    found = [strict(CleanSet, "clean", table) for table in tables("clean", grid.clean)]
    if data_set.size:  # else the images tell, when they are read
        for one in found:
            one.check(data_set.size, data_set.size)
    return [one for one in found if _possible(one, victim)]


def _possible(one: CleanSet, victim: Victim) -> bool:
    """Whether what a set needs of a victim is known; warns where a grid could not tell."""
    if one.stamped and victim.attack is None:
        return False  # that a clean model has no trigger needs no telling
    unknown = "its trigger" if one.stamped else "what it was trained on" if one.seen else None
    if victim.given and unknown:
        warnings.warn(
            f"clean set {one.name} is left out for {victim.given['name']}: {unknown} is unknown",
            UnbackdoorWarning,
            stacklevel=2,
        )
        return False
    return True


def declared(role: method.Role, table: Table) -> Table:
    """The declaration of the method that `table` asks for, defaults included."""
    parameters = {key: value for key, value in table.items() if key != "name"}
    return method.build(role, table["name"], parameters).declaration()


def _budget(budget: int | float) -> int | float:
    if not (0 < budget < MOST_IMAGES) or (budget >= 1 and budget != int(budget)):
        raise ParameterError(
            f"a budget is a share below 1 of the training images, or a count, got {budget!r}"
        )
    return int(budget) if budget >= 1 else budget


def contents(attack: Table | None) -> Table | None:
    """The hashes of the files that the declaration of an attack names; None where it names none."""
    if attack is None:
        return None
    table = dict(attack)
    found = method.build("attack", table.pop("name"), table)
    assert isinstance(found, Attack)
    return found.contents() or None
