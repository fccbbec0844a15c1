"""What the bench adds to a cell, what 10,000 results take to draw, and what two workers gain.

python benchmarks/bench_overhead.py GRID DIR  # works missing cells out: beside repair, measuring
python benchmarks/bench_overhead.py --draw    # 10,000 made-up results: load and render them
python benchmarks/bench_overhead.py --ray     # 16 one-thread cells: one Ray worker, then two
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from report import bench_samples
from unbackdoor.bench import grid
from unbackdoor.bench.plan import Plan
from unbackdoor.bench.run import Bench
from unbackdoor.report import results, site

COUNT = 10_000

CELLS = """
seeds = [0, 1]
budgets = [0.3]
data = [{ name = "digits", reserve = 0.33 }]
architectures = [{ name = "preact_resnet18", width = 8, in_channels = 1 }]
attacks = [{ name = "badnets", rate = 0.2 }]
defenses = [{ name = "fine_tuning", lr = [0.02, 0.03, 0.04, 0.05] }]
training = { epochs = 4, lr = 0.1, batch = 64, flip = false }
tuning = { epochs = 60, batch = 32, flip = false }
"""
"""Sixteen of about the same length."""


def overhead(told: Path, folder: Path) -> None:
    """Works out what lacks in `folder`; prints the worst cells: seconds beside their own work.

    All of a cell is timed, from its claim until its result is on the disk, after its victim and
    the images are there.
    """
    bench, found = Bench(folder), []
    for cell in Plan(grid.cells(grid.read(told)), bench.store).pending:
        bench.victim(cell.victim)
        bench.shelf(cell.victim)
        start = time.perf_counter()
        record, _ = bench.cell(cell)
        seconds = time.perf_counter() - start
        if record and record["status"] == "done":
            own = record["spent"]["repair"] + record["spent"]["measure"]
            found.append((seconds - own, own, cell.title))
    found.sort(reverse=True)
    print(f"{len(found)} cells; the most that the bench added:")
    for added, own, name in found[:5]:
        print(f"{name}: {added:.2f} s to {own:.1f} s of its own ({100 * added / own:.1f} %)")
    missed = sum(added > max(1.0, 0.02 * own) for added, own, _ in found)
    print(f"{missed} cells above both 1 s and 2 %")


def draw() -> None:
    """Prints how long `COUNT` results take to load and to render."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = bench_samples.folder(
            folder / "results",
            seeds=29,
            rates=(0.1, 0.05, 0.01),
            budgets=(0.01, 0.02, 0.05, 0.1, 0.15, 0.2),
        )
        clocks = time.perf_counter(), time.process_time()
        found = results.read(made)
        site.write(found, folder / "site")
        wall, own = time.perf_counter() - clocks[0], time.process_time() - clocks[1]
        print(f"{len(found.cells)} results: {wall:.1f} s, {own:.1f} s of them of this process")


def share() -> None:
    """Prints how long the grid `CELLS` takes on a cluster of one worker, and on one of two."""
    seconds = {workers: on_cluster(workers) for workers in (1, 2)}
    print(f"{seconds[1]:.0f} s with one worker, {seconds[2]:.0f} s with two: ", end="")
    print(f"{seconds[1] / seconds[2]:.2f} times faster")


def on_cluster(workers: int) -> float:
    """Seconds of the grid `CELLS` on a Ray cluster of that many workers, which is there before."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "grid.toml").write_text(CELLS)
        address = "127.0.0.1:6399"
        head = ["start", "--head", "--port=6399", f"--num-cpus={workers}", "--disable-usage-stats"]
        called("ray", *head, "--include-dashboard=false")
        try:
            start = time.perf_counter()
            argv = ["--out", str(folder / "out"), "--engine", "ray", "--address", address]
            told = called("unbackdoor", "bench", str(folder / "grid.toml"), *argv, "--json")
            seconds = time.perf_counter() - start
        finally:
            called("ray", "stop")
        counts = json.loads(told)
        assert (counts["ran"], counts["failed"]) == (16, 0), counts
        return seconds


def called(program: str, *argv: str) -> str:
    """What a program beside this Python prints."""
    path = Path(sys.executable).parent / program
    env = {**os.environ, "RAY_worker_niceness": "0", "RAY_AUTH_MODE": "disabled"}
    return subprocess.run(
        [path, *argv], check=True, stdout=subprocess.PIPE, env=env
    ).stdout.decode()


if __name__ == "__main__":
    if sys.argv[1:] == ["--draw"]:
        draw()
    elif sys.argv[1:] == ["--ray"]:
        share()
    else:
        overhead(*map(Path, sys.argv[1:]))
