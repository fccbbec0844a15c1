"""What the benchmarks' tables rest on, on nets small enough to solve on paper."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from unbackdoor.core.images import Images
from unbackdoor.network.layers import Layer

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def ranking(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield __import__("channel_ranking")
    for script in BENCHMARKS.glob("*.py"):
        sys.modules.pop(script.stem, None)


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


def test_the_headline_tells_what_clean_models_lost_on_average(ranking):
    page = __import__("headline_averages")

    def row(victim, method, acc):
        interval = [acc - 1, acc + 1]
        return {
            "victim": victim,
            "method": method,
            "acc": acc,
            "acc_interval": interval,
            "asr": None,
        }

    rows = [
        row("a", "none", 80.0),
        row("b", "none", 90.0),
        row("a", "fmp_plus", 79.5),
        row("b", "fmp_plus", 88.0),
        row("b", "ft_sam", 89.0),
    ]
    told = page.costs(rows)
    assert "| fmp_plus | 79.5 (78.5 to 80.5) | 88.0 (87.0 to 89.0) | 1.25 |" in told
    assert "| ft_sam | – | 89.0 (88.0 to 90.0) | 1.00 |" in told


def test_the_headline_shows_what_a_clean_model_has_on_the_same_images(ranking):
    page = __import__("headline_averages")
    rates = {"acc": 80.0, "asr": 13.4, "ra": 62.9, "method": "fmp_plus"}
    rows = [
        rates | {"victim": "a", "ra_limit": 62.6},
        rates | {"victim": "b", "ra_limit": None},
    ]
    told = page.overview(rows, {"a": 9.3})
    assert "| a | – | – | – | 80.0 / 13.4 / 62.9 | 9.3 / 62.6 |" in told
    assert "| b | – | – | – | 80.0 / 13.4 / 62.9 | – / – |" in told


def row(victim: str, acc: float, job: str = "now", model: str | None = None) -> dict[str, object]:
    return {"victim": victim, "method": "fmp", "acc": acc, "job": job, "model": model}


@pytest.mark.parametrize(
    ("here", "kept"),
    [
        pytest.param(None, row("a", 1.0, model="b1"), id="a model that is not here"),
        pytest.param(None, row("a", 1.0), id="a model that is neither here nor named"),
        pytest.param("b1", row("a", 1.0, model="b1"), id="the same model"),
    ],
)
def test_a_page_keeps_what_was_measured_elsewhere(ranking, monkeypatch, tmp_path, here, kept):
    ledger, path = __import__("ledger"), tmp_path / "page.json"
    monkeypatch.setattr(ledger, "fingerprint", lambda name: here if name == "a" else None)
    path.write_text(json.dumps([row("b", 2.0), kept]), encoding="utf-8")
    jobs = {("a", "fmp"): "now", ("b", "fmp"): "now", ("c", "fmp"): "now"}
    told = ledger.merged(path, [row("b", 3.0), row("c", 4.0)], jobs)
    assert [(each["victim"], each["acc"]) for each in told] == [("a", 1.0), ("b", 3.0), ("c", 4.0)]


@pytest.mark.parametrize(
    "old",
    [
        pytest.param(row("a", 1.0, job="before"), id="another declaration"),
        pytest.param(row("a", 1.0, model="b2"), id="another model"),
        pytest.param(row("a", 1.0), id="a model nobody knows"),
        pytest.param({"victim": "a", "method": "fmp", "acc": 1.0}, id="no job"),
        pytest.param(row("d", 1.0), id="not asked for any more"),
    ],
)
def test_a_page_never_mixes_two_methods_or_models_of_a_name(ranking, monkeypatch, tmp_path, old):
    ledger, path = __import__("ledger"), tmp_path / "page.json"
    monkeypatch.setattr(ledger, "fingerprint", lambda name: "b1")
    path.write_text(json.dumps([old]), encoding="utf-8")
    assert ledger.merged(path, [], {("a", "fmp"): "now"}) == []


def test_a_page_refuses_a_row_that_nobody_asked_for(ranking, tmp_path):
    ledger = __import__("ledger")
    with pytest.raises(KeyError):
        ledger.merged(tmp_path / "page.json", [row("b", 3.0)], {("a", "fmp"): "now"})


def test_a_page_tells_whose_rows_are_gone(ranking, tmp_path, capsys):
    ledger, path = __import__("ledger"), tmp_path / "page.json"
    ledger.keep(path, [row("a", 1.0), row("a", 2.0, job="other"), row("b", 3.0)])
    ledger.keep(path, [row("a", 5.0)])
    assert ledger.rows_of(path) == [row("a", 5.0)]
    assert capsys.readouterr().err.splitlines() == [
        "page.json: 1 rows of a do not hold any more",
        "page.json: 1 rows of b do not hold any more",
    ]


def test_what_was_measured_on_another_model_of_the_name_is_not_told(ranking, monkeypatch, tmp_path):
    repairs = __import__("repairs")
    monkeypatch.setattr(repairs, "CACHE", tmp_path)
    monkeypatch.setattr(repairs, "fingerprint", lambda name: "b1")
    job = repairs.Job("clean-w16", "none")
    assert repairs.done(job) is None
    job.path.parent.mkdir(parents=True)
    for model, told in (("b1", True), ("b2", False)):
        job.path.write_text(json.dumps({"acc": None, "model": model}), encoding="utf-8")
        assert (repairs.done(job) is not None) == told


def test_a_victims_page_keeps_what_the_clean_model_told_where_it_is_not_here(ranking):
    page = __import__("victims_page")
    told = {"victim": "a", "asr": 90.0, "clean_asr": None}
    assert page.filled(told, {"victim": "a", "asr": 1.0, "clean_asr": 2.0}) == {
        "victim": "a",
        "asr": 90.0,
        "clean_asr": 2.0,
    }
    assert page.filled(told, {})["clean_asr"] is None


def test_a_model_is_known_by_its_weights(ranking, monkeypatch, tmp_path):
    victims = __import__("victims")
    monkeypatch.setattr(victims, "CACHE", tmp_path)
    folder = tmp_path / "victims" / "clean-w16"
    folder.mkdir(parents=True)

    def found(weight: float) -> str | None:
        victims.fingerprint.cache_clear()
        save_file({"w": torch.tensor([weight])}, folder / "model.safetensors")
        return victims.fingerprint("clean-w16")

    assert found(1.0) is None  # not planted to the end
    (folder / "meta.json").write_text("{}", encoding="utf-8")
    assert found(1.0) == found(1.0) != found(2.0)
    assert victims.fingerprint("cifar10-blended-w32") is None
