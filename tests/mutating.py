"""Deletes the core idea of a method, one at a time, and demands that a test fails.

Each mutant is one change of one file in a temporary copy of the repository. A mutant whose test
passes has survived: the test says nothing of that idea.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path("src/unbackdoor")


class Mutant(NamedTuple):
    """What is deleted, where, and the test that must notice."""

    idea: str
    file: str
    """Below `src/unbackdoor`."""
    text: str
    """It is there once."""
    mutated: str
    test: str
    """A file below `tests`, perhaps with `::name`."""


def main(mutants: Sequence[Mutant], wanted: Sequence[str]) -> int:
    """Tries those of the `mutants` that hold a part of `wanted`, or all; 1 where any survives."""
    chosen = [m for m in mutants if not wanted or any(part in m.idea for part in wanted)]
    if not chosen:
        return 0
    tests = sorted({mutant.test for mutant in chosen})
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        root = copied(Path(folder))
        if not passes(root, tests):
            print("the tests fail without any mutant; mend them first")
            return 2
        survived = [mutant for mutant in chosen if lives(root, mutant)]
    print(f"{len(chosen) - len(survived)} of {len(chosen)} mutants were noticed")
    return 1 if survived else 0


def copied(folder: Path) -> Path:
    """What the tests need of the repository, in `folder`."""
    for part in ("src", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def lives(root: Path, mutant: Mutant) -> bool:
    """Whether the test passes although the idea is gone; says so."""
    path = root / PACKAGE / mutant.file
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace(mutant.text, mutant.mutated), encoding="utf-8")
    try:
        survived = passes(root, [mutant.test])
    finally:
        path.write_text(before, encoding="utf-8")
    print(f"{'SURVIVED' if survived else 'noticed '}  {mutant.idea}", flush=True)
    return survived


def passes(root: Path, tests: Sequence[str]) -> bool:
    """Whether the `tests` pass in the copy; raises where pytest could not run them."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", *(f"tests/{test}" for test in tests)],
        cwd=root,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": "src"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"pytest could not run {tests}: {done.stdout[-2000:]}{done.stderr}")
    return done.returncode == 0
