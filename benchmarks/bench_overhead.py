"""What the bench adds: to a cell beside its repair and measuring, and to 10,000 results drawn.

python benchmarks/bench_overhead.py DIR       # the results of a bench
python benchmarks/bench_overhead.py --draw    # 10,000 made-up results: load and render them
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from report import bench_samples
from unbackdoor.bench.store import Store
from unbackdoor.report import results, site

COUNT = 10_000


def overhead(folder: Path) -> None:
    """Prints the worst cells: seconds that were neither repair nor measuring."""
    found = []
    for record in Store(folder).all("cells"):
        if record["status"] == "done":
            spent = record["spent"]
            own = spent["repair"] + spent["measure"]
            found.append((spent["all"] - own, own, record["id"]))
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
            seeds=28,
            rates=(0.1, 0.05, 0.01),
            budgets=(0.01, 0.02, 0.05, 0.1, 0.15, 0.2),
        )
        clocks = time.perf_counter(), time.process_time()
        found = results.read(made)
        site.write(found, folder / "site")
        wall, own = time.perf_counter() - clocks[0], time.process_time() - clocks[1]
        print(f"{len(found.cells)} results: {wall:.1f} s, {own:.1f} s of them of this process")


if __name__ == "__main__":
    if sys.argv[1:] == ["--draw"]:
        draw()
    else:
        overhead(Path(sys.argv[1]))
