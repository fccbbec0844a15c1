"""The scripts of benchmarks/: each stands alone, and the quick ones run."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path

import pytest
import torch

from bench.conftest import noise
from ranking.samples import RUN, data, net
from unbackdoor.checkpoints import checkpoint
from unbackdoor.core.spec import Spec
from unbackdoor.models import create
from unbackdoor.network.layers import find_layers
from unbackdoor.ranking.ranking import Ranker
from unbackdoor.ranking.reverse import Nudge

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


def test_the_plain_ranking_ranks_by_the_same_images():
    """The plain procedure is the truth that agreement is told by."""
    plain_ranking = runpy.run_path(str(BENCHMARKS / "fmp_ranking.py"))["plain_ranking"]
    model, (x, y, signs), nudge = net(), data(20), Nudge(eps=0.3, alpha=0.1, steps=1)
    ranker = Ranker(model, x, y, signs, nudge, RUN)
    for layer in find_layers(model, x):
        plain = plain_ranking(model, layer, torch.arange(layer.channels), x, y, signs, nudge)
        ours = ranker.rank(layer, layer.channels, lambda _: None)
        torch.testing.assert_close(ours.score, plain.score)
        torch.testing.assert_close(ours.loss, plain.loss)
