"""The results that the repository keeps are those of its grids, and so are their tables."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from unbackdoor.bench.grid import cells, read
from unbackdoor.bench.plan import Plan
from unbackdoor.bench.store import Store
from unbackdoor.core.errors import UnbackdoorWarning
from unbackdoor.report import planted, results, tables

ROOT = Path(__file__).parents[2]
KEPT = sorted(path.parent for path in (ROOT / "docs" / "results").glob("*/cells"))


SHARED = ROOT.parent / "shared"


@pytest.fixture(params=KEPT, ids=lambda path: path.name)
def kept(request, monkeypatch):
    if (
        request.param.name in ("strangers", "fmp", "defenses", "published-imagenet")
        and not (SHARED / "zoo-real").is_dir()
    ):
        pytest.skip("the strangers' victims are absent")
    monkeypatch.setenv("UNBACKDOOR_DATA", str(SHARED))
    return request.param


def plan(folder):
    grids = sorted((ROOT / "grids").glob(f"{folder.name}*.toml"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnbackdoorWarning)  # what is said of strangers' files
        every = [cell for path in grids for cell in cells(read(path), path.parent)]
    return Plan(every, Store(folder))


def names(folder, kind):
    return {path.stem for path in (folder / kind).glob("*.json")}


def test_every_result_is_of_a_cell_of_the_grid(kept):
    assert names(kept, "cells") and names(kept, "victims")
    assert names(kept, "cells") <= {cell.id for cell in plan(kept).cells}
    assert names(kept, "victims") <= {victim.id for victim in plan(kept).victims}


def test_the_table_of_victims_is_what_the_report_writes_now(kept):
    path = kept / "victims.md"
    if path.exists():
        assert path.read_text(encoding="utf-8") == planted.markdown(results.read(kept))


def test_the_smoke_grid_is_there_as_a_whole():
    assert plan(ROOT / "docs" / "results" / "smoke").pending == []


def test_the_report_finds_all_of_them_done(kept):
    found = results.read(kept)
    assert {row.status for row in found.rows} == {"done"}
    assert set(found.cells) == names(kept, "cells")


def test_the_table_is_what_the_report_writes_now(kept):
    told = (kept / "table.md").read_text(encoding="utf-8")
    assert told == tables.markdown(results.read(kept).rows)
