"""Killed at any moment, a bench goes on: nothing that has a result is done again."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

from unbackdoor.bench import grid, victims
from unbackdoor.bench.engines import local
from unbackdoor.bench.run import Bench
from unbackdoor.bench.store import Store

from .test_run import numbers

KILLS = 10


def quiet(*_: object) -> None:
    pass


def worked(folder: Path, told: grid.Grid, log: Path) -> None:
    """A whole run, which writes the id of each victim and each cell that it begins into `log`."""
    repaired, plant = Bench._repaired, victims.plant

    def begins(name: str) -> None:
        with log.open("a") as file:
            file.write(f"{name}\n")

    def repairing(self, wanted, *more):
        begins(wanted.id)
        return repaired(self, wanted, *more)

    def planting(wanted, *more):
        begins(wanted.id)
        return plant(wanted, *more)

    Bench._repaired, victims.plant = repairing, planting
    local.work(Bench(folder, "cpu", 1), grid.cells(told), quiet, quiet)


def lines(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


def started(target, *args):
    # Forks of a process that has torch already begin at once, and no thread is lost in them.
    process = multiprocessing.get_context("forkserver").Process(target=target, args=args)
    process.start()
    return process


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Each victim and cell that is done, and what a rewrite of it would change."""
    paths = [path for kind in ("cells", "victims") for path in (folder / kind).glob("[!.]*.json")]
    found = ((path.stem, path.stat()) for path in paths)
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found}


def killed(process, log: Path, begun: int, after: float) -> bool:
    """Whether it lived to be killed, `after` seconds after it had begun so many pieces of work."""
    while process.is_alive() and len(lines(log)) < begun:
        time.sleep(0.002)
    process.join(after)
    alive = process.is_alive()
    if alive:
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    return alive


def test_ten_kills_repeat_no_finished_cell(tiny, tmp_path):
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])
    rng = random.Random(0)
    told = tiny(seeds=[0, 1], defenses=["fine_tuning", "clp", "bnp", "fst"])
    cells = {cell.id for cell in grid.cells(told)}
    work = cells | {cell.victim.id for cell in grid.cells(told)}
    whole = tmp_path / "whole"
    began = time.monotonic()
    process = started(worked, whole, told, tmp_path / "whole.log")
    process.join()
    piece = (time.monotonic() - began) / len(work)
    assert process.exitcode == 0 and files(whole).keys() == work and len(work) == 20

    folder, done, begun, amid = tmp_path / "killed", {}, 0, 0
    for kill in range(KILLS):
        log = tmp_path / f"{kill}.log"
        process = started(worked, folder, told, log)
        alive = killed(process, log, rng.choice((2, 3)), rng.uniform(0, piece / 2))
        assert not set(lines(log)) & done.keys()
        begun += len(lines(log))
        now = files(folder)
        assert done.items() <= now.items()
        done = now
        amid += alive and bool(done.keys() & cells) and not cells <= done.keys()
    assert amid >= KILLS // 2, "most kills must meet a bench that has results and lacks some"
    last = started(worked, folder, told, tmp_path / "last.log")
    last.join()
    assert last.exitcode == 0 and files(folder).keys() == work
    # A kill may cost the one piece of work that it hit, and no more.
    assert begun + len(lines(tmp_path / "last.log")) <= len(work) + KILLS
    assert not list((folder / "cells").glob("*.part"))
    undisturbed, found = Store(whole), Store(folder)
    for cell in cells:
        one, other = undisturbed.read("cells", cell), found.read("cells", cell)
        if other["spent"]["resumed"]:
            for note in ("passes", "passes_back"):
                assert note not in other["notes"]
                one["notes"].pop(note, None)
        assert numbers(other) == numbers(one)


def test_two_runs_share_the_work(tiny, tmp_path):
    told = tiny(seeds=[0, 1])
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])
    logs = [tmp_path / "a.log", tmp_path / "b.log"]
    both = [started(worked, tmp_path / "shared", told, log) for log in logs]
    for process in both:
        process.join()
        assert process.exitcode == 0
    ran = [name for log in logs for name in lines(log)]
    cells = grid.cells(told)
    assert sorted(ran) == sorted({cell.id for cell in cells} | {cell.victim.id for cell in cells})
