"""The ray engine gives what the local one gives, and goes on where it was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.conftest import sources, tiny, toml  # noqa: F401
from bench.test_run import numbers, worked
from unbackdoor.bench import grid
from unbackdoor.bench.run import Bench
from unbackdoor.bench.store import Store

pytest.importorskip("ray", reason="ray is not installed")
pytestmark = pytest.mark.slow


def test_both_engines_give_the_same_bits(tiny, sources, tmp_path):  # noqa: F811
    cells = grid.cells(tiny())
    expected = {
        cell.id: record for cell, record, _ in worked(Bench(tmp_path / "a", "cpu", 1), cells)
    }
    (tmp_path / "grid.toml").write_text(toml(sources))
    code = "import sys; from unbackdoor.cli import main; sys.exit(main())"
    argv = ["bench", tmp_path / "grid.toml", "--out", tmp_path / "b", "--engine", "ray", "--device"]
    # A process of its own: ray's own warnings are not ours to judge.
    done = subprocess.run(
        [sys.executable, "-c", code, *argv, "cpu"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = {record["id"]: record for record in Store(Path(tmp_path / "b")).all("cells")}
    assert found.keys() == expected.keys()
    for name, record in found.items():
        assert numbers(record) == numbers(expected[name])
