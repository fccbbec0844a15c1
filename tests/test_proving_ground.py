"""The proving ground keeps its word: what is closed was drawn, and no open grid touches it."""

from __future__ import annotations

import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest

from unbackdoor.bench import grid, starts

ROOT = Path(__file__).resolve().parent.parent
GROUND = ROOT / "docs" / "results" / "proving-ground"
NAMES = ("proving-ground", "published")
GRIDS = sorted(path for name in NAMES for path in (ROOT / "grids").glob(f"{name}*.toml"))
DRAW = runpy.run_path(str(ROOT / "benchmarks" / "proving_ground.py"))
CLOSED: dict[str, list[str]] = DRAW["closed"]()
NEW = {
    *("batt", "photo_filter", "coarse", "sticker", "semantic", "multi_target"),
    *("adaptive_consistent", "adaptive_flat", "grond"),
}
STRANGERS = 6


@pytest.fixture(autouse=True)
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grids are read as if the checkpoints that they name were there."""
    monkeypatch.setenv("UNBACKDOOR_DATA", "absent")
    monkeypatch.setattr(starts, "content", str)
    monkeypatch.setattr(starts, "_load", lambda *_: None)


def network(victim: grid.Victim) -> str:
    """As the draw names it."""
    name, options = victim.architecture["name"], victim.architecture["options"]
    return f"{name} depth={options['depth']}" if name == "cifar_resnet" else str(name)


def trigger(victim: grid.Victim) -> str:
    """As the draw names it."""
    assert victim.attack is not None
    return victim.attack["name"] + (" sources" if victim.attack["sources"] else "")


def victims(path: Path) -> dict[str, grid.Victim]:
    return {
        cell.victim.id: cell.victim for cell in grid.cells(grid.read(path)) if cell.victim.attack
    }


def is_drawn(victim: grid.Victim) -> bool:
    signs = victim.data["name"] == "gtsrb" and trigger(victim) in CLOSED["triggers on GTSRB"]
    networks = (*CLOSED["networks"], *CLOSED["small networks"])
    return signs or network(victim) in networks or trigger(victim) in CLOSED["triggers"]


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_a_grid_is_open_or_closed_as_was_drawn(path: Path) -> None:
    told = tomllib.loads(path.read_text())
    assert told.get("closed", False) == ("-closed" in path.stem)
    drawn = {is_drawn(victim) for victim in victims(path).values()}
    assert drawn <= {told.get("closed", False)}


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_fmp_is_asked_to_prune_networks_narrower_than_its_default_too(path: Path) -> None:
    asked = tomllib.loads(path.read_text())["defenses"]
    assert {"name": "fmp", "p": 8} in asked


def test_every_member_of_every_stratum_is_on_the_ground() -> None:
    every = [victim for path in GRIDS for victim in victims(path).values()]
    there: dict[str, set[str]] = {
        "networks": {network(victim) for victim in every},
        "small networks": {network(victim) for victim in every},
        "triggers": {trigger(victim) for victim in every},
        "triggers on GTSRB": {
            trigger(victim) for victim in every if victim.data["name"] == "gtsrb"
        },
    }
    for kind, found in there.items():
        for stratum, members in DRAW["STRATA"][kind].items():
            assert set(members) <= found, (kind, stratum)


def test_the_ground_is_as_large_as_it_says_and_a_third_of_it_is_closed() -> None:
    sides: dict[bool, dict[str, grid.Victim]] = {True: {}, False: {}}
    for path in GRIDS:
        sides["-closed" in path.stem] |= victims(path)
    shut, opened = (len(sides[side]) for side in (True, False))
    strangers = len(CLOSED["strangers"])
    shut, opened = shut + strangers, opened + STRANGERS - strangers
    assert opened >= 40 and shut / (shut + opened) >= 1 / 3
    page = (GROUND / "README.md").read_text()
    assert f"{shut + opened} victims" in page and f"{shut} of them are closed" in page
    every = [*sides[True].values(), *sides[False].values()]
    assert len({network(victim) for victim in every}) >= 8
    assert sum(trigger(victim) in NEW for victim in sides[False].values()) >= 12


def test_the_draw_is_the_one_that_the_page_tells() -> None:
    page: Any = (GROUND / "README.md").read_text()
    for members in CLOSED.values():
        for member in members:
            assert f"`{member}`" in page, member


@pytest.mark.parametrize(
    ("ground", "other", "shared"),
    [
        ("proving-ground.toml", "attacks.toml", {"badnets", "blended", "batt", "coarse"}),
        ("proving-ground-gtsrb.toml", "attacks-gtsrb.toml", {"badnets", "multi_target"}),
    ],
)
def test_victims_are_those_of_the_grids_of_attacks(
    ground: str, other: str, shared: set[str]
) -> None:
    here, there = (victims(ROOT / "grids" / name) for name in (ground, other))
    assert {trigger(here[key]) for key in here.keys() & there.keys()} == shared
