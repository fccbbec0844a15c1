"""The results that the repository keeps are those of the grid as it is, and so is their table."""

from __future__ import annotations

from pathlib import Path

import pytest

from unbackdoor.bench.grid import cells, read
from unbackdoor.bench.plan import Plan
from unbackdoor.bench.store import Store
from unbackdoor.report import results, tables

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "docs" / "results" / "smoke"


@pytest.fixture(scope="module")
def plan():
    return Plan(cells(read(ROOT / "grids" / "smoke.toml")), Store(KEPT))


def names(kind):
    return {path.stem for path in (KEPT / kind).glob("*.json")}


def test_every_cell_of_the_grid_has_a_result_and_no_other_lies_there(plan):
    assert plan.cells and plan.pending == []
    assert names("cells") == {cell.id for cell in plan.cells}
    assert names("victims") == {victim.id for victim in plan.victims}


def test_the_report_finds_all_of_them_done():
    found = results.read(KEPT)
    assert {row.status for row in found.rows} == {"done"}
    assert set(found.cells) == names("cells")


def test_the_table_is_what_the_report_writes_now():
    told = (KEPT / "table.md").read_text(encoding="utf-8")
    assert told == tables.markdown(results.read(KEPT).rows)
