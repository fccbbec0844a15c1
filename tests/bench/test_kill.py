"""Killed at any moment, a bench goes on: nothing that has a result is done again."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

from unbackdoor.bench import grid
from unbackdoor.bench.engines import local
from unbackdoor.bench.run import Bench

KILLS = 10


def quiet(*_: object) -> None:
    pass


def worked(folder: Path, told: grid.Grid, log: Path) -> None:
    """A whole run, which writes the id of each cell that it begins to repair into `log`."""
    repaired = Bench._repaired

    def logged(self, wanted, *more):
        with log.open("a") as file:
            file.write(f"{wanted.id}\n")
        return repaired(self, wanted, *more)

    Bench._repaired = logged
    local.work(Bench(folder, "cpu", 1), grid.cells(told), quiet, quiet)


def started(target, *args):
    # Forks of a process that has torch already begin at once, and no thread is lost in them.
    process = multiprocessing.get_context("forkserver").Process(target=target, args=args)
    process.start()
    return process


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Each result, and what a rewrite of it would change."""
    found = ((path.name, path.stat()) for path in (folder / "cells").glob("[!.]*.json"))
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found}


def test_ten_kills_repeat_no_finished_cell(tiny, tmp_path):
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])
    rng = random.Random(0)
    told = tiny(seeds=[0, 1], defenses=["fine_tuning", "clp", "bnp"])
    cells = {cell.id for cell in grid.cells(told)}
    whole = tmp_path / "whole"
    began = time.monotonic()
    process = started(worked, whole, told, tmp_path / "whole.log")
    process.join()
    took = time.monotonic() - began
    assert process.exitcode == 0 and len(files(whole)) == len(cells) == 12

    folder, done, begun = tmp_path / "killed", {}, 0
    for kill in range(KILLS):
        log = tmp_path / f"{kill}.log"
        process = started(worked, folder, told, log)
        process.join(rng.uniform(0.1, 0.35) * took)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        again = set(log.read_text().split()) if log.exists() else set()
        assert not {f"{name}.json" for name in again} & done.keys()
        begun += len(again)
        now = files(folder)
        assert done.items() <= now.items()
        done = now
    last = started(worked, folder, told, tmp_path / "last.log")
    last.join()
    assert last.exitcode == 0
    assert {name.removesuffix(".json") for name in files(folder)} == cells
    # A kill may cost the one cell that it hit, and no more.
    assert begun <= len(cells) + KILLS
    assert not list((folder / "cells").glob("*.part"))


def test_two_runs_share_the_work(tiny, tmp_path):
    told = tiny(seeds=[0, 1])
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])
    logs = [tmp_path / "a.log", tmp_path / "b.log"]
    both = [started(worked, tmp_path / "shared", told, log) for log in logs]
    for process in both:
        process.join()
        assert process.exitcode == 0
    ran = [line for log in logs if log.exists() for line in log.read_text().split()]
    assert sorted(ran) == sorted(cell.id for cell in grid.cells(told))
