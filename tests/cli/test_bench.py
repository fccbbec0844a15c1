"""bench and report as they are typed."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.conftest import noise, toml
from unbackdoor.bench import grid as grids

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def grid(tmp_path):
    sources = {
        "name": "noise",
        "train": noise(tmp_path / "train.npz", 30, 1),
        "test": noise(tmp_path / "test.npz", 12, 2),
    }

    def written(**more):
        path = tmp_path / "grid.toml"
        path.write_text(toml(sources, **more))
        return path

    return written


def test_a_bench_counts_what_it_does_and_does_nothing_twice(run, grid, tmp_path):
    out = tmp_path / "results"
    argv = ("bench", grid(), "--out", out, "--json", "--device", "cpu", "--cpus-per-cell", 1)
    dry = run(*argv, "--dry-run")
    assert dry.code == 0 and not out.exists()
    assert (dry.json["cells"], dry.json["done"], dry.json["victims"]) == (4, 0, 2)
    assert dry.json["estimate"] == {"seconds": 0, "unknown": 6}
    some = run(*argv, "--only", "badnets*fmp")
    assert (some.json["cells"], some.json["ran"]) == (1, 1)
    full = run(*argv)
    assert full.code == 0, full.err
    counts = {key: full.json[key] for key in ("cells", "done", "ran", "failed")}
    assert counts == {"cells": 4, "done": 4, "ran": 3, "failed": 0}
    assert "[3/3]" in full.err
    again = run(*argv)
    assert again.json["ran"] == 0 and again.json["done"] == 4
    later = run(*argv, "--dry-run").json
    assert later["estimate"] == {"seconds": 0, "unknown": 0}
    weak = run(*argv).json["weak"]
    assert not weak or ("is below 0.9" in weak[0] and "missed: noise/" in full.err)

    site = run("report", out, "--json")
    assert site.code == 0 and site.json["done"] == 4 and site.json["missing"] == 0
    assert (out / "site" / "index.html").is_file()
    assert len(list((out / "site" / "cells").iterdir())) == 4


def test_a_bench_of_scanners_tells_scores_and_classes(run, grid, tmp_path):
    path, out = grid(defenses=[]), tmp_path / "results"
    path.write_text("scanners = ['last_layer']\n" + path.read_text())
    done = run("bench", path, "--out", out, "--device", "cpu", "--cpus-per-cell", 1)
    assert done.code == 0, done.err
    assert re.search(r"badnets/.*last_layer/12/seed0: score [\d.e-]+, class \d", done.err)
    site = run("report", out, "--json")
    assert site.code == 0 and (site.json["scans"], site.json["cells"]) == (2, 0)
    assert (out / "site" / "scanners.html").is_file()


def test_failures_are_counted_and_done_again_when_asked(run, grid, tmp_path):
    out = tmp_path / "results"
    path = grid(budgets=[12, 40])
    argv = ("bench", path, "--out", out, "--json", "--device", "cpu", "--only", "none/fine_tuning")
    first = run(*argv)
    assert first.code == 1 and first.json["failed"] == 1 and first.json["done"] == 2
    assert "failed: ImagesError" in first.err
    assert run(*argv).json["ran"] == 0
    assert run(*argv, "--retry").json["ran"] == 1


def test_a_closed_grid_is_opened_by_asking_for_it_alone(run, grid, tmp_path):
    path = grid()
    path.write_text("closed = true\n" + path.read_text())
    argv = (
        "bench",
        path,
        "--out",
        tmp_path / "r",
        "--device",
        "cpu",
        "--json",
        "--only",
        "none*tun",
    )
    shut = run(*argv)
    assert shut.code == 2 and len(shut.errors) == 1 and "--closed opens it" in shut.errors[0]
    assert not (tmp_path / "r").exists()
    assert run(*argv, "--dry-run").code == 0
    opened = run(*argv, "--closed")
    assert opened.code == 0 and opened.json["ran"] == 1, opened.err


@pytest.mark.parametrize(
    "entry",
    [
        'architectures = ["{code}"]',
        'architectures = [{{name = "{code}"}}]',
        'victims = [{{name = "v", model = "x.pt", data = "digits", arch = "{code}"}}]',
    ],
)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_code_that_a_grid_names_is_run_only_when_a_person_says_so(run, tmp_path, entry, dry):
    code, trace = tmp_path / "mynet.py", tmp_path / "ran"
    code.write_text(f"import pathlib\npathlib.Path({str(trace)!r}).touch()\nbuild = None\n")
    path = tmp_path / "grid.toml"
    lines = ('data = ["digits"]', 'defenses = ["clp"]', entry.format(code=f"{code}:build"))
    path.write_text("\n".join(lines))
    (tmp_path / "x.pt").write_bytes(b"")
    done = run("bench", path, "--out", tmp_path / "r", *dry)
    assert done.code == 2 and len(done.errors) == 1 and "--trust-code" in done.errors[0]
    assert not trace.exists()
    if "victims" not in entry:
        done = run("bench", path, "--out", tmp_path / "r", "--trust-code", *dry)
        assert done.code == 2 and trace.exists()


def test_a_dry_run_shows_what_each_victim_is_for(run, grid, tmp_path):
    path = grid(defenses=["clp", {"name": "fmp", "p": [2, 4]}])
    shown = run("bench", path, "--out", tmp_path / "results", "--dry-run").out
    assert "6 cells on 2 victims, 6 to do" in shown
    listed = [line.split() for line in shown.splitlines()]
    assert sum(line[-4:] == ["0", "to", "plant", "unknown"] for line in listed) == 2
    for method in (["clp,"], ["fmp", "p=2,"], ["fmp", "p=4,"]):
        assert (
            sum(line[:-4] == method and line[-3:] == ["to", "do", "unknown"] for line in listed)
            == 2
        )


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("--only", "nothing"), "none of 4 cells matches"),
        (("--gpus-per-cell", 0.5), "need --engine ray"),
        (("--address", "here:1"), "need --engine ray"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(run, grid, tmp_path, argv, says):
    done = run("bench", grid(), "--out", tmp_path / "results", *argv)
    assert done.code == 2 and len(done.errors) == 1 and re.search(says, done.errors[0])
    assert not (tmp_path / "results").exists()


def test_a_cluster_that_refuses_is_one_line_that_names_the_token(run, grid, tmp_path, monkeypatch):
    def init(address, **settings):
        raise ConnectionError("it refused")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    argv = ("bench", grid(), "--out", tmp_path / "results", "--engine", "ray")
    done = run(*argv, "--address", "here:1")
    assert done.code == 2 and "no ray cluster at here:1: it refused" in done.errors[-1]
    assert "RAY_AUTH_MODE=token" in done.errors[-1]
    assert "RAY_AUTH_MODE" not in run(*argv).errors[-1]


def test_the_parts_of_grids_in_the_documentation_are_read(tmp_path):
    blocks = re.findall(r"```toml\n(.*?)```", (DOCS / "bench.md").read_text(), re.DOTALL)
    (text,) = (block for block in blocks if block.startswith("seeds") and "[[vic" not in block)
    found = {
        start: next(block for block in blocks if block.startswith(start))
        for start in ("[training]", "measures", "[[controls]]")
    }
    started = found["[training]"].partition("[[attacks]]")[0].removeprefix("[training]\n")
    started = started.replace("epochs = 100\n", "")
    text = text.replace("[training] ", f"[training]\n{started}#")
    controls = found["[[controls]]"].replace('"fmp"', '"clp"')
    path = tmp_path / "grid.toml"
    path.write_text(f"{found['measures']}\n{text}\n{controls}")
    cells = grids.cells(grids.read(path))
    victims = {cell.victim.id: cell.victim for cell in cells}.values()
    planted = [victim for victim in victims if victim.attack]
    assert planted and all(victim.start and len(victim.measures) == 6 for victim in planted)
    assert sum(bool(cell.defense.get("control")) for cell in cells) == 2 * (2 + 2 + 1)


def test_the_grid_in_the_documentation_runs(run, tmp_path):
    blocks = re.findall(r"```toml\n(.*?)```", (DOCS / "bench.md").read_text(), re.DOTALL)
    whole = [block for block in blocks if block.startswith("seeds")]
    (text,) = (block for block in whole if "[[victims]]" not in block)
    path = tmp_path / "grid.toml"
    path.write_text(text)
    dry = run("bench", path, "--out", tmp_path / "results", "--dry-run", "--json")
    assert dry.code == 0 and dry.json["cells"] == 16
    short = re.sub(r"epochs = \d+", "epochs = 1", text).replace("width = 8", "width = 2")
    path.write_text(short)
    argv = ("bench", path, "--out", tmp_path / "results", "--json", "--device", "cpu")
    done = run(*argv, "--only", "fine_tuning*seed0")
    assert done.code == 0 and done.json["ran"] == 2, done.err


@pytest.mark.parametrize(
    "path", sorted((DOCS.parent / "grids").glob("*.toml")), ids=lambda p: p.stem
)
def test_ready_grids_are_grids(run, path, tmp_path, monkeypatch):
    if "$UNBACKDOOR_DATA" in path.read_text():
        shared = DOCS.parents[1] / "shared"
        if not (shared / "zoo-real").is_dir():
            pytest.skip("needs the victims that others published")
        monkeypatch.setenv("UNBACKDOOR_DATA", str(shared))
    dry = run("bench", path, "--out", tmp_path / "results", "--dry-run", "--json")
    assert dry.code == 0 and dry.json["cells"] >= 10, dry.err
