"""`[[scanners]]` of a grid: each looks at every victim, and one result is kept for each."""

from __future__ import annotations

from pathlib import Path

import pytest

from unbackdoor.bench import grid
from unbackdoor.bench.cell import Scan
from unbackdoor.bench.engines import local
from unbackdoor.bench.plan import Plan
from unbackdoor.core.errors import ParameterError, UnknownNameError
from unbackdoor.report import results, site
from unbackdoor.scanners.last_layer import LastLayer

ONLY_SCANS = {"defenses": [], "scanners": ["last_layer", {"name": "latent", "rounds": [5, 6]}]}


def worked(bench, cells):
    ran = []
    local.work(bench, cells, lambda *told: ran.append(told), lambda *_: None)
    return ran


def test_every_scanner_looks_at_every_victim(tiny):
    cells = grid.cells(tiny(**ONLY_SCANS))
    assert all(isinstance(cell, Scan) and cell.kind == "scans" for cell in cells)
    assert [cell.method for cell in cells[:3]] == [
        "last_layer",
        "latent rounds=5",
        "latent rounds=6",
    ]
    assert len(cells) == 6 and len({cell.id for cell in cells}) == 6
    assert cells[0].declaration()["scanner"] == LastLayer().declaration()


def test_a_grid_without_anything_to_try_or_with_an_unknown_scanner_is_refused(tiny):
    with pytest.raises(ParameterError, match="nothing to try"):
        grid.cells(tiny(defenses=[]))
    with pytest.raises(UnknownNameError, match="last_layer"):
        grid.cells(tiny(scanners=["last_layr"]))


def test_scans_change_no_identity_of_cells(tiny):
    before = [cell.id for cell in grid.cells(tiny())]
    both = grid.cells(tiny(scanners=["last_layer"]))
    assert [cell.id for cell in both if cell.kind == "cells"] == before


def test_a_scan_is_done_once_and_tells_the_score_and_the_class(bench, tiny):
    cells = grid.cells(tiny(**ONLY_SCANS))
    ran = worked(bench, cells)
    assert all(ours and record["status"] == "done" for _, record, ours in ran)
    cell, record, _ = ran[0]
    assert record == bench.store.read("scans", cell.id) and record["kind"] == "scan"
    assert len(record["classes"]) == 3 and record["suspect"] in range(3)
    assert record["images"]["clean"] == 12 and record["spent"]["scan"] > 0
    assert not any(ours for *_, ours in worked(bench, cells))
    assert not list(bench.store.all("cells"))


def test_a_scanner_that_breaks_is_a_failed_result_and_can_be_tried_again(bench, tiny, monkeypatch):
    def broken(*_):
        raise RuntimeError("out of luck")

    cells = grid.chosen(grid.cells(tiny(**ONLY_SCANS)), "*last_layer*")
    monkeypatch.setattr(LastLayer, "look", broken)
    assert [record["status"] for _, record, _ in worked(bench, cells)] == ["failed"] * 2
    monkeypatch.undo()
    plan = Plan(cells, bench.store)
    assert not plan.pending and plan.forget_failures() == 2 and len(plan.pending) == 2
    assert [record["status"] for _, record, _ in worked(bench, cells)] == ["done"] * 2
    assert plan.estimate().seconds == 0


def test_the_report_reads_scans_and_misses_those_that_were_planned(bench, tiny):
    cells = grid.cells(tiny(**ONLY_SCANS))
    Plan(cells, bench.store).write()
    worked(bench, cells[:3])
    found = results.read(bench.folder)
    assert {one.place[2] for one in found.detections} == {
        *("last_layer", "latent rounds=5", "latent rounds=6")
    }
    looks = [look for one in found.detections for look in one.looks]
    assert sorted(look.status for look in looks) == ["done"] * 3 + ["missing"] * 3
    assert {look.attacked for look in looks} == {True, False}
    assert set(found.methods["scanner"]) == {"last_layer", "latent"}


def test_a_bench_of_scanners_alone_is_drawn(bench, tiny, tmp_path):
    cells = grid.cells(tiny(**ONLY_SCANS))
    Plan(cells, bench.store).write()
    worked(bench, cells)
    written = site.write(results.read(bench.folder), tmp_path / "site")
    assert "tables/scanners.md" in written and "tables/victims.md" in written
    page = (tmp_path / "site" / "scanners.html").read_text()
    assert "badnets" in page and "clean model" in page and "latent rounds=5" in page
    assert (tmp_path / "site" / "methods" / "scanner-latent.html").is_file()


def test_the_grid_of_scanners_can_be_read():
    path = Path(__file__).parents[2] / "grids" / "scanners.toml"
    cells = grid.cells(grid.read(path), path.parent)
    assert len(cells) == 10 * 3 * 3 and len({cell.victim.id for cell in cells}) == 30
