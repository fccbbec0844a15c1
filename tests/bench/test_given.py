"""Models that are there already, in a grid beside planted ones or alone."""

from __future__ import annotations

import json
import tomllib
import warnings
from pathlib import Path

import pytest
import torch

from bench.conftest import noise
from unbackdoor.bench import given, grid
from unbackdoor.bench.engines import local
from unbackdoor.bench.plan import Plan
from unbackdoor.checkpoints import checkpoint
from unbackdoor.core import method
from unbackdoor.core.errors import (
    CheckpointError,
    ParameterError,
    UnbackdoorWarning,
    UnknownNameError,
)
from unbackdoor.core.spec import Spec
from unbackdoor.models import create
from unbackdoor.report import results
from unbackdoor.report.site import write

NET = {"arch": "preact_resnet18", "options": {"width": 2}, "classes": 3}
NET |= {"mean": [0.5] * 3, "std": [0.25] * 3}


@pytest.fixture
def zoo(tmp_path) -> Path:
    """A folder with a backdoored model, its triggered images, and a clean model."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    for seed, name in enumerate(("bad", "clean")):
        spec = Spec("preact_resnet18", ("0", "1", "2"), (0.5,) * 3, (0.25,) * 3, {"width": 2})
        net = create(spec, torch.Generator().manual_seed(seed)).net
        torch.save(net.state_dict(), folder / f"{name}.pt")
    noise(folder / "stamped.npz", 12, 3)
    return folder


def tables(**more):
    bad = {"name": "bad", "model": "zoo/bad.pt", "data": "noise", "triggered": "zoo/stamped.npz"}
    bad |= {"target": 1, **NET, **more}
    return [
        {key: value for key, value in bad.items() if value is not None},
        {"name": "fine", "model": "zoo/clean.pt", "data": "noise", **NET},
    ]


@pytest.fixture
def cells(tiny, tmp_path, zoo):
    def made(*, victims=None, **more):
        told = {"architectures": [], "attacks": [], "victims": victims or tables(), **more}
        return grid.cells(tiny(**told), tmp_path)

    return made


def worked(bench, cells):
    ran = []
    local.work(bench, cells, lambda cell, record, ours: ran.append(record), lambda *_: None)
    return ran


def test_a_grid_of_models_that_are_there_plants_nothing(bench, cells, tmp_path, zoo):
    every = cells(seeds=[0, 1])
    assert len(every) == 2 * 2 * 2 and {cell.victim.attack is None for cell in every} == {
        True,
        False,
    }
    ran = worked(bench, every[:4])
    assert [record["status"] for record in ran] == ["done"] * 4
    bad, fine = ran[0], ran[2]
    stamped = bad["after"]["asr"]["total"]
    assert stamped == bad["images"]["stamped"] == 8  # two of three classes are not the target
    assert fine["after"]["asr"] is None and fine["after"]["acc"]["total"] == 12
    victim = bench.store.read("victims", bad["victim"])
    assert victim["learned"] == {} and victim["victim"]["given"]["name"] == "bad"
    # What is measured is the file's own model: its weights, its scale.
    kept = checkpoint.load(bench.store.victim(bad["victim"]) / "model.safetensors")
    file = checkpoint.load(zoo / "bad.pt", **NET)
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(kept(x), file(x))


def test_they_stand_beside_planted_ones(tiny, tmp_path, zoo):
    titles = {cell.victim.title for cell in grid.cells(tiny(victims=tables()), tmp_path)}
    place = "noise/preact_resnet18"
    assert titles == {f"{place}/{name}" for name in ("none", "badnets/0.1", "bad", "fine")}


def test_the_contents_of_the_files_are_the_identity(tiny, tmp_path, zoo, cells):
    before = [cell.id for cell in cells()]
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    zoo.rename(moved / "zoo")
    more = {"architectures": [], "attacks": [], "victims": tables()}
    assert [cell.id for cell in grid.cells(tiny(**more), moved)] == before
    assert str(tmp_path) not in json.dumps(
        grid.cells(tiny(**more), moved)[0].declaration()["victim"]["given"]
    )
    other = moved / "zoo" / "other.npz"
    noise(other, 12, 4)
    changed = {**more, "victims": tables(triggered="zoo/other.npz")}
    after = [cell.id for cell in grid.cells(tiny(**changed), moved)]
    assert after[2:] == before[2:] and not set(after[:2]) & set(before[:2])


def test_a_variable_of_the_environment_names_their_folder(cells, tmp_path, zoo, monkeypatch):
    wanted = [cell.id for cell in cells()]
    monkeypatch.setenv("ZOO", str(zoo))
    told = tables(model="$ZOO/bad.pt", triggered="${ZOO}/stamped.npz")
    assert [cell.id for cell in cells(victims=told)] == wanted
    monkeypatch.delenv("ZOO")
    with pytest.raises(ParameterError, match=r"\$ZOO/bad\.pt: set the environment variable"):
        cells(victims=told)


def test_they_may_bring_images_of_their_own(bench, cells, zoo, sources):
    noise(zoo / "own.npz", 20, 5)
    own = {"data": None, "clean": "zoo/own.npz", "test": "zoo/stamped.npz"}
    every = cells(victims=tables(**own)[:1], data=[])
    assert every[0].victim.data["name"] == "bad"
    (record, *_) = worked(bench, every[:1])
    assert record["status"] == "done" and record["images"]["train"] == 20
    assert record["images"]["clean"] == 12 and record["after"]["acc"]["total"] == 12


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"target": None}, "triggered and target belong together"),
        ({"data": None}, "give data, the name of"),
        ({"clean": "digits"}, "clean, test, size and flip are those of its data"),
        ({"flip": False}, "clean, test, size and flip are those of its data"),
        ({"name": "none"}, "the name 'none' is taken"),
        ({"name": "fine"}, "the name 'fine' is taken"),
        ({"target": 1.5}, "target"),
    ],
)
def test_what_makes_no_sense_is_refused(cells, change, says):
    with pytest.raises(ParameterError, match=says):
        cells(victims=tables(**change))


def test_what_is_unknown_names_the_nearest(cells):
    with pytest.raises(UnknownNameError, match="did you mean 'noise'"):
        cells(victims=tables(data="nois"))
    with pytest.raises(UnknownNameError, match="did you mean 'triggered'"):
        cells(victims=tables(trigered="x"))
    with pytest.raises(CheckpointError, match=r"lost\.pt"):
        cells(victims=tables(model="zoo/lost.pt"))


def test_a_grid_without_models_or_networks_says_so(tiny):
    with pytest.raises(ParameterError, match="the grid has no models"):
        grid.cells(tiny(architectures=[]))


def test_attacks_need_networks(tiny, tmp_path, zoo):
    with pytest.raises(ParameterError, match="no architectures to plant them in"):
        grid.cells(tiny(architectures=[], victims=tables()), tmp_path)


def test_a_model_that_changed_meanwhile_is_not_measured(bench, cells, zoo):
    every = cells()
    (zoo / "bad.pt").write_bytes((zoo / "clean.pt").read_bytes())
    given.content.cache_clear()
    assert "changed while the bench ran" in worked(bench, every[:1])[0]["error"]


def test_a_file_that_names_another_target_is_refused(bench, cells, monkeypatch):
    read = given.data.open_triggered
    monkeypatch.setattr(
        given.data, "open_triggered", lambda source, target, **k: read(source, 2, **k)
    )
    assert "names another target than 1" in worked(bench, cells()[:1])[0]["error"]


def test_pages_and_tables_tell_them_apart(bench, cells, tmp_path):
    two = [*tables(), {**tables()[1], "name": "finer"}]
    every = cells(victims=two)
    Plan(every, bench.store).write()
    worked(bench, every)
    rows = results.read(bench.folder).rows
    assert {row.attack for row in rows} == {"bad", "none model=fine", "none model=finer"}
    assert {row.attack: row.attacked for row in rows}["none model=fine"] is False
    write(results.read(bench.folder), tmp_path / "site")
    pages = "".join(path.read_text() for path in (tmp_path / "site" / "cells").glob("*.html"))
    assert "A victim that was there already: bad" in pages
    assert "A clean model that was there already: finer" in pages


SHARED = Path(__file__).parents[2] / "shared"
SHARED = SHARED if SHARED.exists() else SHARED.parents[1] / "shared"


@pytest.mark.skipif(not (SHARED / "zoo-real").exists(), reason="the strangers' victims are absent")
@pytest.mark.parametrize(
    ("name", "count", "networks"),
    [
        ("strangers", 4, {"small_vgg", "wide_resnet", "simple_cnn"}),
        ("strangers-closed", 2, {"small_vgg", "badnet_cnn"}),
    ],
)
def test_the_grids_of_strangers_read_every_victim(monkeypatch, name, count, networks):
    monkeypatch.setenv("UNBACKDOOR_DATA", str(SHARED))
    path = Path(__file__).parents[2] / "grids" / f"{name}.toml"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnbackdoorWarning)
        asked = grid.read(path)
        every = grid.cells(asked, path.parent)
    assert asked.closed == name.endswith("-closed")
    victims = {cell.victim.id: cell.victim for cell in every}.values()
    assert len(victims) == count and len(every) == count * len(asked.defenses)
    assert {victim.architecture["name"] for victim in victims} == networks
    assert all(str(SHARED) not in json.dumps(victim.declaration()) for victim in victims)


def test_the_grid_of_equal_passes_gives_them():
    asked = tomllib.loads((Path(__file__).parents[2] / "grids" / "defenses-equal.toml").read_text())
    told = {}
    for entry in asked["defenses"]:
        name, fields = (entry, {}) if isinstance(entry, str) else (entry.pop("name"), entry)
        work = method.build("defense", name, fields).work(4500, 10)
        told[name] = work and work / 4500
    assert told.pop("fmp") is None  # its search is not foretold
    assert told.pop("sau") < 27 and told.pop("uat") < 27 and told.pop("rnp") < 5  # as it says
    assert len(told) == 17 and all(17 <= passes <= 24 for passes in told.values()), told


def test_the_clean_image_shown_is_the_nearest_of_its_class():
    from unbackdoor.core.images import Images

    pixels = torch.tensor([10, 200, 90], dtype=torch.uint8).view(3, 1, 1, 1)
    test = Images(pixels, torch.tensor([0, 1, 0]), ("a", "b"))
    stamped = Images(
        torch.full((1, 1, 1, 1), 180, dtype=torch.uint8), torch.tensor([0]), ("a", "b")
    )
    assert given.beside(stamped, test).pixels.flatten().tolist() == [90]


def test_data_in_a_folder_that_a_variable_names_start_from_the_grid_too(
    bench, tiny, sources, tmp_path, zoo, monkeypatch
):
    for part in ("train", "test"):
        (zoo / f"{part}.npz").write_bytes(Path(sources[part]).read_bytes())
    told = {"name": "noise", "train": "$ZOO/train.npz", "test": "$ZOO/test.npz"}
    asked = tiny(data=[told], victims=tables(model="$ZOO/bad.pt", triggered="$ZOO/stamped.npz"))
    seen = set()
    for folder in ("zoo", str(zoo)):
        monkeypatch.setenv("ZOO", folder)
        every = grid.cells(asked, tmp_path)
        assert len({cell.victim.id for cell in every}) == 4  # clean, planted and two given ones
        assert all(len(bench.shelf(cell.victim).every) == 30 for cell in every)
        assert {cell.victim.data["train"] for cell in every} == {"$ZOO/train.npz"}
        seen.add(tuple(cell.id for cell in every))
    assert len(seen) == 1  # where the files lie is no part of the identity


def test_a_set_that_needs_what_nobody_knows_of_a_victim_is_left_out(cells):
    clean = [{"name": "poisoned", "stamped": 0.2}, {"name": "blurred", "blur": 1.0}]
    known = {None, "blurred"}
    with pytest.warns(UnbackdoorWarning, match="poisoned is left out for bad: its trigger is"):
        found = cells(clean=clean)
    assert {(cell.clean or {}).get("name") for cell in found} == known
    with pytest.warns(UnbackdoorWarning, match="seen is left out for fine: what it was trained on"):
        found = cells(clean=[{"name": "seen", "seen": True}, clean[1]], victims=tables()[1:])
    assert {(cell.clean or {}).get("name") for cell in found} == known
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that a clean model has no trigger needs no telling
        cells(clean=clean, victims=tables()[1:])
