"""A tiny victim and tiny images on disk, and the command line in this process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unbackdoor.checkpoints import checkpoint
from unbackdoor.cli import main

from .greys import QUICK, greys, told


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if not line.startswith("warning: ")]


@pytest.fixture(autouse=True)
def standard_cache(tmp_path, monkeypatch) -> Path:
    """Stands for the user's cache folder, which no test may touch."""
    folder = tmp_path / "standard cache"
    monkeypatch.setattr("unbackdoor.cli.keeping.standard", lambda: folder)
    return folder


@pytest.fixture
def run(capsys):
    def ran(*argv: object) -> Ran:
        capsys.readouterr()
        code = main([str(part) for part in argv])
        return Ran(code, *capsys.readouterr())

    return ran


def save_npz(path: Path, images: Any, labels: Any) -> Path:
    np.savez(path, images=images, labels=labels, classes=np.array(["ant", "bee", "cat"]))
    return path


def noise(n: int, seed: int, classes: int = 3) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 16, 16, 3), dtype=np.uint8), np.arange(n) % classes


@dataclass(frozen=True)
class Tiny:
    model: Path
    clean: Path
    test: Path
    triggered: Path
    folder: Path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Tiny:
    from unbackdoor.checkpoints import checkpoint
    from unbackdoor.core.spec import Spec
    from unbackdoor.models import create

    folder = tmp_path_factory.mktemp("tiny")
    told = ("ant", "bee", "cat"), (0.5,) * 3, (0.2,) * 3, {"width": 2}, (16, 16)
    spec = Spec("preact_resnet18", *told)
    checkpoint.save(create(spec), folder / "victim.safetensors", {})
    pixels, labels = noise(12, 3)
    pixels[:, -3:, -3:] = 255
    return Tiny(
        folder / "victim.safetensors",
        save_npz(folder / "clean.npz", *noise(20, 1)),
        save_npz(folder / "test.npz", *noise(9, 2)),
        save_npz(folder / "triggered.npz", pixels, labels),
        folder,
    )


@pytest.fixture
def repair(tiny):
    """The arguments of a repair by FMP that takes no time; later ones win or are added."""
    return [
        *("repair", tiny.model, "--clean", tiny.clean, "--defense", "fmp"),
        *("-p", "epochs=1", "-p", "ranking_images=2", "-p", "p=2", "--device", "cpu"),
    ]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working folder: greys, a model with a way to a class, one without, and 19 clean ones."""
    monkeypatch.chdir(tmp_path)
    save_npz(tmp_path / "clean.npz", *greys())
    for name, target in (("good", None), ("bad", 1)):
        checkpoint.save(told(0, target), tmp_path / f"{name}.safetensors", {})
    folder = tmp_path / "mine"
    folder.mkdir()
    for seed in range(19):
        checkpoint.save(told(seed + 1), folder / f"{seed:02d}.safetensors", {})
    return tmp_path


@pytest.fixture
def calibrated(here, run):
    """The calibration that the clean models make."""
    done = run("scan", "--calibrate", "mine", "--clean", "clean.npz", "--out", "cal", *QUICK)
    assert done.code == 0, done.err
    return here / "cal" / "calibration.json"
