"""The field's own network, PreActResNet18 of width 64: planted and repaired while the time lasts.

    PYTHONPATH=src python benchmarks/full_width.py --minutes 8 --out DIR
    PYTHONPATH=src python benchmarks/full_width.py --rehearse --out DIR   the whole way in small

For a machine that is lent for minutes: from a source checkout, without a network. BadNets, Blended,
WaNet, LF and SSBA are planted on CIFAR-10 and each is repaired by every main method, one after the
other, as `unbackdoor bench` does it; DIR holds the same result files, one after each piece of work.
When the minutes are over it stops, wherever it is, and the same command goes on from there.
It needs torch, torchvision, timm, pyarrow and pydantic; the images are those of `--data`.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unbackdoor.bench import grid as grids
from unbackdoor.bench.plan import Plan
from unbackdoor.bench.run import Bench
from unbackdoor.core.errors import UnbackdoorError, UnbackdoorWarning
from unbackdoor.data import open_images

ROOT = Path(__file__).resolve().parent.parent
PLACES = (ROOT / "shared" / "data", ROOT.parent / "shared" / "data")
"""Where the images lie unless `--data` says so."""
FILES = {part: f"cifar10-{part}.parquet" for part in ("train", "test")}
FEW = 600
"""Images of each part in a rehearsal."""
ATTACKS: list[dict[str, Any]] = [
    {"name": "badnets"},
    {"name": "blended"},
    {"name": "wanet"},
    {"name": "lf", "clean_epochs": 3},
    {"name": "ssba"},
]
DEFENSES: list[dict[str, Any]] = [
    # The most telling first: when the time is over, every victim so far has these.
    *({"name": name} for name in ("uat", "self_distillation", "fine_tuning", "ft_sam", "fmp")),
    *({"name": name} for name in ("clp", "bnp", "unit", "sau")),
    # BackdoorBench's constants for PreActResNet18
    {"name": "i_bau", "lr": 1e-4},
    {"name": "nad", "lr": 0.01, "batch": 256, "betas": [[500, 1000, 1000]], "drop_after": 0},
    {"name": "anp"},
    # Readings of FMP, beside as many channels at random: `grids/fmp-readings.toml` has more.
    {"name": "fmp", "p": 8},
    {"name": "fmp", "share": "cluster"},
    {
        **{"name": "fmp", "share": "cluster", "sizes": 2, "step": 0.02, "batch_norms": True},
        **{"ranking_images": 128, "weight_decay": 0.0, "final_lr": 1e-4},
    },
]
CONTROLS: list[dict[str, Any]] = [
    {"name": "random_pruning", "p": [8, 64]},
    {"name": "random_pruning", "like": "fmp share=cluster"},
]
IN_SMALL: dict[str, dict[str, Any]] = {
    # Whose steps do not shrink with the images.
    "uat": {"enough_images": FEW // 20},
    "self_distillation": {"enough_images": FEW // 20},
    "anp": {"steps": 20},
    "sau": {"epochs": 5},
}


class TimeIsUpError(BaseException):
    """The minutes are over; no result of a method, so nothing that catches errors may catch it."""


def declared(data: dict[str, str], *, rehearse: bool, epochs: int) -> grids.Grid:
    """All that is planted and repaired, as a grid file would say it."""
    return grids.Grid.model_validate(
        {
            "data": [{"name": "cifar10", **data, "reserve": 0.1}],
            "architectures": [{"name": "preact_resnet18", "width": 8 if rehearse else 64}],
            "attacks": ATTACKS,
            "defenses": [
                {**table, **(IN_SMALL.get(table["name"], {}) if rehearse else {})}
                for table in DEFENSES
            ],
            "measures": ["limit", "reactivation", "coverage"],
            "controls": CONTROLS,
            "rates": [0.1],
            "budgets": [FEW // 20 if rehearse else 5000],
            "seeds": [0],
            "training": {"epochs": 1 if rehearse else epochs, "lr": 0.1},
            "tuning": {"epochs": 1 if rehearse else 10},
        }
    )


def ordered(grid: grids.Grid) -> list[grids.Cell]:
    """The cells of the attacked victims, a victim after the other; the clean model's come last."""
    return sorted(grids.cells(grid), key=lambda cell: cell.victim.attack is None)


def few(sources: dict[str, str], folder: Path) -> dict[str, str]:
    """The first images of each source, as files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for part, source in sources.items():
        path = folder / f"{part}.npz"
        if not path.exists():
            images = open_images(source)[slice(FEW)]
            pixels = images.pixels.permute(0, 2, 3, 1).numpy()
            np.savez(path, images=pixels, labels=images.labels.numpy())
        found[part] = str(path)
    return found


def work(bench: Bench, cells: list[grids.Cell], until: float) -> Iterator[str]:
    """Works the cells off, a line after each; raises `TimeIsUpError` at the time `until`."""

    def progress(stage: str, done: int, total: int) -> None:
        if time.monotonic() > until:
            raise TimeIsUpError

    for cell in cells:
        if time.monotonic() > until:
            raise TimeIsUpError
        found, _ = bench.cell(cell, progress)
        assert found is not None, "another run is at work in the same folder"
        rates = found.get("after") or {}
        told = [f"{kind} {100 * rate['value']:.1f}" for kind, rate in rates.items() if rate]
        yield f"{cell.title}: {', '.join(told) or found.get('error', '')}"


def main() -> int:
    """0 when all is done, 1 when time is up or a piece of work failed, 2 for bad input."""
    asked = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    asked.add_argument("--minutes", type=float, default=8.0, help="how long to work")
    asked.add_argument("--out", type=Path, required=True, help="folder of the results")
    asked.add_argument("--data", type=Path, help="folder of cifar10-train.parquet and -test")
    asked.add_argument("--epochs", type=int, default=12, help="of each planting")
    asked.add_argument("--device", default="auto", help="cpu, cuda, ...")
    asked.add_argument("--rehearse", action="store_true", help="width 8, one epoch, few images")
    told = asked.parse_args()
    until = time.monotonic() + 60 * told.minutes
    warnings.simplefilter("ignore", UnbackdoorWarning)
    places = [told.data] if told.data else list(PLACES)
    there = [place for place in places if all((place / name).exists() for name in FILES.values())]
    if not there:
        asked.error(f"no {' and '.join(FILES.values())} in {places[0]}; say where with --data")
    data = {part: str((there[0] / name).resolve()) for part, name in FILES.items()}
    try:
        if told.rehearse:
            data = few(data, told.out.absolute() / "images")
        bench = Bench(told.out.absolute(), told.device)
        plan = Plan(
            ordered(declared(data, rehearse=told.rehearse, epochs=told.epochs)), bench.store
        )
        plan.write()
        print(f"torch {torch.__version__}, {len(plan.pending)} of {len(plan.cells)} cells to do")
        for line in work(bench, plan.pending, until):
            print(line, flush=True)
    except TimeIsUpError:
        print(f"time is up: {len(plan.pending)} of {len(plan.cells)} cells are left")
        return 1
    except UnbackdoorError as error:
        print(error, file=sys.stderr)
        return 2
    failed = [cell for cell in plan.cells if bench.store.read("cells", cell.id)["status"] != "done"]
    print(f"all {len(plan.cells)} cells are done, {len(failed)} of them failed")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
