"""The ray engine gives what the local one gives, and goes on where it was killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.conftest import sources, tiny, toml  # noqa: F401
from bench.test_run import numbers, worked
from unbackdoor.bench import grid
from unbackdoor.bench.engines.ray import DEATHS
from unbackdoor.bench.run import Bench
from unbackdoor.bench.store import Store

pytest.importorskip("ray", reason="ray is not installed")
pytestmark = pytest.mark.slow

LONG = {"seeds": [0], "tuning": {"epochs": 60}, "defenses": ["fine_tuning"]}
"""A grid whose repair lasts long enough to be killed."""


def started(folder: Path, *more: str) -> subprocess.Popen[str]:
    """A bench on Ray, in a process of its own: Ray's warnings are not ours to judge."""
    code = "import sys; from unbackdoor.cli import main; sys.exit(main())"
    argv = ["bench", folder / "grid.toml", "--out", folder / "b", "--engine", "ray", *more]
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        return subprocess.Popen(
            [sys.executable, "-c", code, *argv, "--device", "cpu", "--json"],
            text=True,
            stdout=out,
            stderr=err,
            # As a rule Ray's workers yield to everything else on the machine.
            env={**os.environ, "RAY_worker_niceness": "0"},
        )


def workers(driver: int, task: str) -> list[int]:
    """The processes below `driver` that are at a `task` of Ray."""
    parents, found = {}, []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            parents[int(place.name)] = int(
                (place / "stat").read_text().rpartition(")")[2].split()[1]
            )
            if (place / "cmdline").read_bytes().startswith(f"ray::{task}".encode()):
                found.append(int(place.name))

    def ours(process: int) -> bool:
        return process == driver or (process in parents and ours(parents[process]))

    return [process for process in found if ours(process)]


def killed(bench: subprocess.Popen[str], task: str, most: int) -> set[int]:
    """The processes at `task` that were killed: the first `most`, or all until the end."""
    dead: set[int] = set()
    while bench.poll() is None and len(dead) < most:
        for process in set(workers(bench.pid, task)) - dead:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
                dead.add(process)
        time.sleep(0.02)
    return dead


def test_both_engines_give_the_same_bits(tiny, sources, tmp_path):  # noqa: F811
    cells = grid.cells(tiny())
    expected = {
        cell.id: record for cell, record, _ in worked(Bench(tmp_path / "a", "cpu", 1), cells)
    }
    (tmp_path / "grid.toml").write_text(toml(sources))
    begun = started(tmp_path)
    assert begun.wait() == 0, (tmp_path / "err").read_text()
    found = {record["id"]: record for record in Store(Path(tmp_path / "b")).all("cells")}
    assert found.keys() == expected.keys()
    for name, record in found.items():
        assert numbers(record) == numbers(expected[name])


def test_a_worker_that_is_killed_is_replaced(tiny, sources, tmp_path):  # noqa: F811
    cells = grid.chosen(grid.cells(tiny(**LONG)), "badnets")
    ((_, expected, _),) = worked(Bench(tmp_path / "a", "cpu", 1), cells)
    (tmp_path / "grid.toml").write_text(toml(sources, **LONG))
    bench = started(tmp_path, "--only", "badnets")
    assert [len(killed(bench, task, 1)) for task in ("_plant", "_repair")] == [1, 1]
    assert bench.wait() == 0, (tmp_path / "err").read_text()
    counts = json.loads((tmp_path / "out").read_text())
    assert (counts["ran"], counts["failed"]) == (1, 0)
    (found,) = Store(tmp_path / "b").all("cells")
    assert numbers(found) == numbers(expected)


def test_a_cell_whose_workers_all_die_has_failed(tiny, sources, tmp_path):  # noqa: F811
    (tmp_path / "grid.toml").write_text(toml(sources, **LONG))
    bench = started(tmp_path, "--only", "badnets")
    assert len(killed(bench, "_repair", DEATHS + 2)) == DEATHS + 1
    assert bench.wait() == 1
    counts = json.loads((tmp_path / "out").read_text())
    assert (counts["ran"], counts["failed"]) == (1, 1)
    (found,) = Store(tmp_path / "b").all("cells")
    assert found["error"].startswith(f"WorkerDiedError: its worker died {DEATHS + 1} times")


def test_a_victim_whose_workers_all_die_fails_its_cells(tiny, sources, tmp_path):  # noqa: F811
    long = {**LONG, "training": {"epochs": 200, "batch": 16}}
    (tmp_path / "grid.toml").write_text(toml(sources, **long))
    bench = started(tmp_path, "--only", "badnets")
    assert len(killed(bench, "_plant", DEATHS + 2)) == DEATHS + 1
    assert bench.wait() == 1, (tmp_path / "err").read_text()
    (found,) = Store(tmp_path / "b").all("cells")
    assert found["error"].startswith(f"WorkerDiedError: its worker died {DEATHS + 1} times")


def test_a_second_run_goes_on_where_the_driver_was_killed(tiny, sources, tmp_path):  # noqa: F811
    many = {"seeds": [0, 1, 2]}
    (tmp_path / "grid.toml").write_text(toml(sources, **many))
    store, bench = Store(tmp_path / "b"), started(tmp_path)
    while bench.poll() is None and not list(store.all("cells")):
        time.sleep(0.02)
    bench.kill()
    bench.wait()
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "b" / "cells").glob("[!.]*")}
    assert 0 < len(done) < len(grid.cells(tiny(**many)))
    assert started(tmp_path).wait() == 0, (tmp_path / "err").read_text()
    assert {record["id"] for record in store.all("cells")} == {
        c.id for c in grid.cells(tiny(**many))
    }
    assert all(path.stat().st_mtime_ns == written for path, written in done.items())


def test_what_no_machine_has_is_refused(sources, tmp_path):  # noqa: F811
    (tmp_path / "grid.toml").write_text(toml(sources))
    assert started(tmp_path, "--cpus-per-cell", "4096").wait() == 2
    told = (tmp_path / "err").read_text().strip().splitlines()[-1]
    assert told.startswith("error: a cell asks for 4096 CPUs; the largest machine has ")
