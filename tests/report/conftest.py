"""A bench's results, made up, and their site."""

from __future__ import annotations

from pathlib import Path

import pytest

from report import bench_samples
from unbackdoor.report import results, site


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    defenses = ("fine_tuning", {"name": "fmp", "p": 32}, {"name": "fmp", "p": 64}, "clp")
    path = tmp_path_factory.mktemp("bench") / "results"
    several = {"widths": (64, 128), "budgets": (0.05, 2500)}
    for data, more in (("b-2", {}), ("cifar10", several)):
        shared = {"defenses": defenses, "rates": (0.1, 0.05), "data": (data,)}
        bench_samples.folder(path, **shared, **more)
    return path


@pytest.fixture(scope="session")
def drawn(folder) -> Path:
    out = folder.parent / "site"
    site.write(results.read(folder), out)
    return out
