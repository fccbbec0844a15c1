"""The benchmark for lent machines: it stops when its time is up, and goes on from there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.conftest import noise
from unbackdoor.bench import controls, grid
from unbackdoor.bench.run import Bench

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def full_width(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield __import__("full_width")
    sys.modules.pop("full_width", None)


@pytest.fixture
def cells(tmp_path, full_width):
    sources = {
        "train": noise(tmp_path / "train.npz", 40, 1),
        "test": noise(tmp_path / "test.npz", 12, 2),
    }
    whole = full_width.declared(sources, rehearse=True, epochs=12)
    small = {
        **whole.model_dump(),
        "architectures": [{"name": "preact_resnet18", "width": 2}],
        "attacks": [{"name": "badnets", "size": 2}],
        "defenses": ["fine_tuning", "clp"],
        "controls": [],
        "budgets": [4],
    }
    return full_width.ordered(grid.Grid.model_validate(small))


def test_it_plants_the_fields_network_with_five_attacks_and_repairs_each(full_width):
    told = full_width.declared({"train": "a", "test": "b"}, rehearse=False, epochs=12)
    every = full_width.ordered(told)
    victims = {cell.victim.id: cell.victim for cell in every}.values()
    assert [(v.attack or {}).get("name") for v in victims] == [
        *("badnets", "blended", "wanet", "lf", "ssba"),
        None,
    ]
    assert {v.architecture["options"]["width"] for v in victims} == {64}
    assert {v.attack["epochs"] for v in victims if v.attack} == {12}
    assert len(every) == 6 * (len(full_width.DEFENSES + full_width.CONTROLS) + 1)
    assert {cell.budget for cell in every} == {5000}
    assert [cell.follows is not None for cell in every[len(full_width.DEFENSES) :]][:3] == [0, 0, 1]
    first = [cell.defense["name"] for cell in every][: len(full_width.DEFENSES)]
    assert first[:5] == ["uat", "self_distillation", "fine_tuning", "ft_sam", "fmp"]


def test_it_stops_in_the_middle_and_goes_on_there(full_width, cells, tmp_path, monkeypatch):
    bench = Bench(tmp_path / "out", "cpu", 1)
    now = iter(range(1000))
    monkeypatch.setattr(full_width.time, "monotonic", lambda: next(now))
    with pytest.raises(full_width.TimeIsUpError):
        list(full_width.work(bench, cells, until=3))
    # Neither the victim nor the cell was half done and called a result.
    assert not list(bench.store.all("cells")) and not list(bench.store.all("victims"))
    lines = list(full_width.work(bench, cells, until=10**6))
    assert len(lines) == 4 == len(list(bench.store.all("cells")))
    assert "asr" in lines[0] and "asr" not in lines[-1]
    with pytest.raises(full_width.TimeIsUpError):
        list(full_width.work(bench, cells, until=0))


def test_without_images_it_says_where_to_say_so(full_width, tmp_path, monkeypatch, capsys):
    argv = ["full_width.py", "--out", str(tmp_path / "o"), "--data", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as stopped:
        full_width.main()
    assert stopped.value.code == 2 and "say where with --data" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_rehearsal_is_small_in_everything(full_width):
    told = full_width.declared({"train": "a", "test": "b"}, rehearse=True, epochs=12)
    cells = [cell for cell in full_width.ordered(told) if "control" not in cell.defense]
    passes = {cell.method: (controls.build(cell.defense).work(30, 10) or 0) / 30 for cell in cells}
    assert {name: count for name, count in passes.items() if count > 300} == {}
