"""What the benchmarks' tables rest on, on nets small enough to solve on paper."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from unbackdoor.channels import Layer
from unbackdoor.images import Images

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def ranking(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield __import__("channel_ranking")
    for name in ("channel_ranking", "ranking_page", "repairs", "subjects", "victims"):
        sys.modules.pop(name, None)


def images(value: int) -> Images:
    pixels = torch.full((3, 1, 2, 2), value, dtype=torch.uint8)
    return Images(pixels, torch.zeros(3, dtype=torch.int64), ("a", "b"))


def test_the_oracle_measures_how_far_the_trigger_moves_each_map(ranking):
    conv = nn.Conv2d(1, 2, 1, bias=False)
    conv.weight.data = torch.tensor([1.0, -3.0]).view(2, 1, 1, 1)
    layers = (Layer("0", None, 2),)
    change = ranking.trigger_activated_change(nn.Sequential(conv), layers, images(0), images(255))
    # each map has four places that change by 1 and by 3
    assert change["0"].tolist() == pytest.approx([2, 6])


def test_coverage_is_the_share_of_the_oracles_channels(ranking):
    scores = {"a": torch.tensor([1.0, 5.0, 3.0, 2.0]), "b": torch.tensor([0.0, 9.0])}
    chosen = ranking.top(scores, 2)
    assert chosen["a"].tolist() == [False, True, True, False]
    assert chosen["b"].tolist() == [False, True]
    assert not ranking.top(scores, 64)["a"].any()
    oracle = {"a": torch.tensor([True, True, False, False]), "b": torch.tensor([False, False])}
    assert ranking.coverage(chosen, oracle) == 0.5
    assert ranking.coverage(chosen, {"a": torch.zeros(4, dtype=torch.bool)}) is None


def test_the_rankings_page_averages_what_each_victim_lost(ranking):
    page = __import__("ranking_page")

    def row(victim, kind, p, acc, asr, covered):
        rates = {"acc": acc, "asr": asr, "ra": 50.0}
        told = {"victim": victim, "ranking": kind, "p": p, "coverage": covered}
        return told | {"pruned": rates, "tuned": rates | {"asr": 1.0}}

    rows = [
        row("a", "none", None, 80.0, 99.0, None),
        row("a", "oracle", 64, 79.0, 4.0, 1.0),
        row("b", "none", None, 90.0, 97.0, None),
        row("b", "oracle", 64, 87.0, 20.0, 0.5),
    ]
    assert "| oracle | 64 | 75 | 2.0 | 12.0 | 1 of 2 | 2.0 | 1.0 | 2 of 2 |" in page.averages(rows)
    assert "| oracle | 64 | 50 | 87.0 / 20.0 / 50.0 | 87.0 / 1.0 / 50.0 |" in page.table("b", rows)
