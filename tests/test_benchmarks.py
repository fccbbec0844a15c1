"""The scripts of benchmarks/: each stands alone, and the quick ones run."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path

import pytest

from bench.conftest import noise
from unbackdoor.checkpoints import checkpoint
from unbackdoor.core.spec import Spec
from unbackdoor.models import create

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
SCRIPTS = [p for p in sorted(BENCHMARKS.glob("*.py")) if "__main__" in p.read_text("utf-8")]


def imported(script: Path) -> set[str]:
    tree = ast.walk(ast.parse(script.read_text(encoding="utf-8")))
    return {
        name.split(".")[0]
        for node in tree
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
        )
    }


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_no_script_imports_another(script):
    assert not imported(script) & {other.stem for other in SCRIPTS}


def test_the_time_of_a_repair_is_told_over_that_of_fine_tuning(tmp_path, monkeypatch, capsys):
    spec = Spec("preact_resnet18", ("a", "b"), (0.5,) * 3, (0.5,) * 3, {"width": 2})
    checkpoint.save(create(spec), tmp_path / "model.safetensors", {})
    clean = noise(tmp_path / "clean.npz", 8, 1)
    script = runpy.run_path(str(BENCHMARKS / "repair_time.py"))
    timed = []

    def seconds(defense, model, images):
        timed.append((defense.name(), len(images)))
        # The warm-up is slow, and must not be counted.
        return {1: 90.0, 2: 1.0, 3: 3.0, 4: 2.0}[len(timed)]

    monkeypatch.setitem(script["main"].__globals__, "seconds", seconds)
    given = ["--model", tmp_path / "model.safetensors", "--clean", clean]
    script["main"]([*map(str, given), "--images", "6", "--pairs", "1"])
    assert timed == [("uat", 6), ("fine_tuning", 6)] * 2
    assert capsys.readouterr().out.splitlines()[-1] == "median of 1: 3.0 s, 2.0 s, ratio 1.50"
