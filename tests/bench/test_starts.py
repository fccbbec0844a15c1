"""`[training] start`: victims that are fine-tuned from a checkpoint or from the clean model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from bench.test_run import numbers, worked
from unbackdoor.bench import given, grid, victims
from unbackdoor.bench.cell import Cell, Victim
from unbackdoor.bench.run import Bench
from unbackdoor.checkpoints import checkpoint
from unbackdoor.core.errors import CheckpointError, ParameterError, UnknownNameError
from unbackdoor.core.spec import Spec
from unbackdoor.models import create

DIGITS = {"name": "digits", "train": "digits:train", "test": "digits:test"}
OLD = {
    "data": {**DIGITS, "size": None, "reserve": 0.0},
    "architecture": {"name": "preact_resnet18", "options": {"width": 2}},
    "attack": {
        **{"name": "badnets", "target": 0, "all_to_all": False, "sources": None, "rate": 0.1},
        **{"count": None, "epochs": 3, "lr": 0.01, "batch": 128, "weight_decay": 0.0005},
        **{"flip": True, "size": 3, "value": 1.0},
    },
    "training": None,
    "seed": 0,
    "precision": "auto",
}
"""The declaration of a victim from before there was a start, in full."""
CLP = {"name": "clp", "held_out": 0.1, "max_acc_drop": 0.2, "u": 3.0}
BRIEF = {"name": "badnets", "size": 2, "epochs": 1, "lr": 1e-9, "weight_decay": 0}
"""An attack that leaves the weights that it starts from nearly as they are."""


def saved(path, seed=5, **more):
    told = {"classes": ("ant", "bee", "cat"), "width": 2, **more}
    scale = ((0.4,) * 3, (0.2,) * 3)
    spec = Spec("preact_resnet18", told["classes"], *scale, {"width": told["width"]})
    model = create(spec, torch.Generator().manual_seed(seed))
    checkpoint.save(model, path, {})
    return model


def starting(tiny, start, **more):
    training = {"epochs": 1, "batch": 16, "start": start}
    return tiny(**{"training": training, "attacks": [BRIEF], **more})


def far(one, two):
    """The largest difference between the trained weights of two state dicts."""
    return max(float((one[key] - two[key]).abs().max()) for key in one if key.endswith("weight"))


def test_identities_from_before_there_was_a_start_are_what_they_were():
    victim = Victim(**OLD, min_asr=0.9, title="old", measures=("limit",))
    assert victim.id == "b489695dbc296151"
    assert Cell(victim, CLP, 0.05, "clp").id == "25cfd5312fb63331"
    assert replace(victim, start={"sha256": "0" * 64}).id != victim.id


def test_a_victim_starts_from_the_weights_of_a_checkpoint(bench, tiny, tmp_path):
    model = saved(tmp_path / "pre.safetensors")
    cells = grid.chosen(grid.cells(starting(tiny, "pre.safetensors"), tmp_path), "badnets*fine")
    ((_, record, _),) = worked(bench, cells)
    assert record["status"] == "done", record
    folder = bench.store.victim(cells[0].victim.id)
    kept = checkpoint.load(folder / victims.MODEL)
    assert far(kept.net.state_dict(), model.net.state_dict()) < 1e-5
    assert kept.spec.mean == (0.4,) * 3 and kept.spec.classes == ("ant", "bee", "cat")
    fresh = grid.chosen(grid.cells(tiny(attacks=[BRIEF])), "badnets*fine")
    assert fresh[0].victim.id != cells[0].victim.id and fresh[0].id != cells[0].id


def test_it_is_the_contents_of_the_checkpoint_that_count(tiny, tmp_path, monkeypatch):
    saved(tmp_path / "pre.safetensors")
    before = [cell.id for cell in grid.cells(starting(tiny, "pre.safetensors"), tmp_path)]
    (tmp_path / "zoo").mkdir()
    (tmp_path / "pre.safetensors").rename(tmp_path / "zoo" / "moved.safetensors")
    monkeypatch.setenv("ZOO", str(tmp_path / "zoo"))
    assert [c.id for c in grid.cells(starting(tiny, "$ZOO/moved.safetensors"))] == before
    saved(tmp_path / "zoo" / "moved.safetensors", seed=6)
    given.content.cache_clear()
    after = [c.id for c in grid.cells(starting(tiny, "zoo/moved.safetensors"), tmp_path)]
    # Clean models come first: they never start from anything.
    assert after[:2] == before[:2] and not set(after[2:]) & set(before[2:])


def test_victims_start_from_the_one_clean_model_of_the_grid(bench, tiny, tmp_path, monkeypatch):
    planted = []
    plant = victims.plant
    monkeypatch.setattr(victims, "plant", lambda *a: planted.append(a[0].id) or plant(*a))
    attacks = [BRIEF, {**BRIEF, "name": "blended", "size": 2}]
    attacks[1].pop("size")
    every = grid.cells(starting(tiny, "clean", attacks=attacks))
    chosen = [cell for cell in every if cell.victim.attack and cell.defense["name"] == "fmp"]
    worked(bench, chosen)  # the clean model has no cell here, and is planted all the same
    clean = every[0].victim
    assert planted[0] == clean.id and sorted(planted) == sorted({*planted}) and len(planted) == 3
    first, second = (bench.store.victim(cell.victim.id) / victims.MODEL for cell in chosen)
    start = load_file(bench.store.victim(clean.id) / victims.MODEL)
    assert far(load_file(first), start) < 1e-5 and far(load_file(second), start) < 1e-5
    other = Bench(tmp_path / "other", "cpu", 1)
    records = {record["id"]: record for record in bench.store.all("cells")}
    for cell, record, _ in worked(other, chosen):
        assert numbers(record) == numbers(records[cell.id])


def test_how_the_clean_model_is_trained_is_part_of_who_starts_from_it(tiny):
    longer = {"epochs": 2, "batch": 16, "start": "clean"}
    one, two = (
        grid.cells(made)[-1].victim
        for made in (starting(tiny, "clean"), starting(tiny, "clean", training=longer))
    )
    assert one.attack == two.attack and one.id != two.id
    assert one.declaration()["start"]["training"]["epochs"] == 1


def test_a_victim_whose_clean_model_failed_fails(bench, tiny, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("no clean model")

    monkeypatch.setattr(victims, "fit", broken)
    cells = grid.chosen(grid.cells(starting(tiny, "clean")), "badnets*fine")
    ((_, record, _),) = worked(bench, cells)
    assert record["status"] == "failed" and "no clean model" in record["error"]


@pytest.mark.parametrize(
    ("start", "kind", "says"),
    [
        (3, ParameterError, 'start is a path or "clean", got 3'),
        ("nowhere.pt", CheckpointError, "nowhere.pt"),
        ("wide.safetensors", CheckpointError, "wide.safetensors"),
    ],
)
def test_what_cannot_be_started_from_is_refused(tiny, tmp_path, start, kind, says):
    saved(tmp_path / "wide.safetensors", width=4)
    with pytest.raises(kind, match=says):
        grid.cells(starting(tiny, start), tmp_path)


@pytest.mark.parametrize("classes", [("cat", "bee", "ant"), ("ant", "bee")])
def test_other_classes_are_no_start(bench, tiny, tmp_path, classes):
    saved(tmp_path / "pre.safetensors", classes=classes)
    cells = grid.chosen(grid.cells(starting(tiny, "pre.safetensors"), tmp_path), "badnets*fine")
    ((_, record, _),) = worked(bench, cells)
    assert record["status"] == "failed" and "has the classes" in record["error"]


def test_start_is_a_key_of_training_alone(tiny):
    with pytest.raises(UnknownNameError, match="parameter of badnets 'start'"):
        grid.cells(tiny(attacks=[{"name": "badnets", "start": "clean"}]))


def published(tiny, start, victims="clean", **training):
    network = {"name": "preact_resnet18", "width": 2, "start": start, "training": training}
    return starting(tiny, victims, architectures=[network])


def test_the_clean_model_of_an_architecture_starts_from_a_checkpoint(bench, tiny, tmp_path):
    model = saved(tmp_path / "pre.safetensors")
    found = grid.cells(published(tiny, "pre.safetensors", epochs=0), tmp_path)
    cells = grid.chosen(found, "fine")
    assert [record["status"] for _, record, _ in worked(bench, cells)] == ["done", "done"]
    clean, victim = (bench.store.victim(cell.victim.id) / victims.MODEL for cell in cells)
    told = load_file(clean)
    assert all(torch.equal(told[key], w) for key, w in model.net.state_dict().items())
    assert far(load_file(victim), told) < 1e-5
    fresh = grid.chosen(grid.cells(starting(tiny, "clean")), "fine")
    assert not {cell.victim.id for cell in fresh} & {cell.victim.id for cell in cells}
    assert [cell.title for cell in fresh] == [cell.title for cell in cells]


def test_an_architecture_trains_its_models_in_its_own_way(tiny, tmp_path):
    saved(tmp_path / "pre.safetensors")
    clean, *_, victim = grid.cells(published(tiny, "pre.safetensors", epochs=3, lr=0.5), tmp_path)
    assert clean.victim.training["epochs"] == 3 and clean.victim.training["lr"] == 0.5
    assert victim.victim.attack["epochs"] == BRIEF["epochs"]
    assert victim.victim.declaration()["start"]["start"] == clean.victim.start
    other = grid.cells(published(tiny, "pre.safetensors", epochs=2, lr=0.5), tmp_path)[-1]
    assert other.victim.id != victim.victim.id


@pytest.mark.filterwarnings("ignore:.*does not say its classes")
def test_a_bare_state_dict_gets_the_scale_that_the_grid_says(bench, tiny, tmp_path):
    torch.save(saved(tmp_path / "pre.safetensors").net.state_dict(), tmp_path / "bare.pt")
    start = {"model": "bare.pt", "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}
    cells = grid.chosen(grid.cells(published(tiny, start, epochs=1), tmp_path), "none*fine")
    ((_, record, _),) = worked(bench, cells)
    assert record["status"] == "done", record
    kept = checkpoint.load(bench.store.victim(cells[0].victim.id) / victims.MODEL)
    assert kept.spec.mean == (0.1, 0.2, 0.3) and kept.spec.std == (0.5, 0.6, 0.7)


@pytest.mark.parametrize(
    ("start", "victims", "kind", "says"),
    [
        (None, "clean", ParameterError, "with epochs = 0 the clean model is not trained"),
        (3, "clean", ParameterError, "is a path or a table, got 3"),
        ({"model": "pre.safetensors", "scale": 1}, "clean", UnknownNameError, "'scale'"),
        ("pre.safetensors", None, ParameterError, "nothing says what victims start from"),
        ("nowhere.pt", "clean", CheckpointError, "nowhere.pt"),
    ],
)
def test_what_no_clean_model_can_start_from_is_refused(tiny, tmp_path, start, victims, kind, says):
    saved(tmp_path / "pre.safetensors")
    with pytest.raises(kind, match=says):
        grid.cells(published(tiny, start, victims, epochs=0), tmp_path)
