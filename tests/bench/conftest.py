"""A grid that takes no time: noise for images, a network of two channels, one epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unbackdoor.bench import grid
from unbackdoor.bench.run import Bench

GRID: dict[str, Any] = {
    "seeds": [0],
    "budgets": [12],
    "training": {"epochs": 1, "batch": 16},
    "tuning": {"epochs": 1},
    "architectures": [{"name": "preact_resnet18", "width": 2}],
    "attacks": [{"name": "badnets", "size": 2}],
    "defenses": ["fine_tuning", {"name": "fmp", "p": 2, "ranking_images": 2}],
}


def noise(path: Path, n: int, seed: int) -> str:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(n) % 3, classes=np.array(["ant", "bee", "cat"]))
    return str(path)


@pytest.fixture(scope="session")
def sources(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("noise")
    return {
        "name": "noise",
        "train": noise(folder / "train.npz", 30, 1),
        "test": noise(folder / "test.npz", 12, 2),
    }


@pytest.fixture
def tiny(sources):
    """A grid like `GRID` with other values for some of its keys."""

    def made(**more: Any) -> grid.Grid:
        return grid.Grid.model_validate({**GRID, "data": [sources], **more})

    return made


@pytest.fixture
def bench(tmp_path) -> Bench:
    return Bench(tmp_path / "results", "cpu", 1)


def toml(sources: dict[str, str], **more: Any) -> str:
    """The same as text of a file."""
    told = {**GRID, **more}
    lines = [f"{key} = {_value(told[key])}" for key in ("seeds", "budgets", "attacks", "defenses")]
    lines += [f"architectures = {_value(told['architectures'])}", f"data = [{_value(sources)}]"]
    for key in ("training", "tuning"):
        lines += [f"{key} = {_value(told[key])}"]
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_value(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return f"'{value}'" if isinstance(value, str) else str(value).lower()
