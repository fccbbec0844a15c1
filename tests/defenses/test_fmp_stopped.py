"""FMP that was stopped goes on, and gives the same bits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from defenses.samples import noise, noisy_net
from unbackdoor.core.run import Progress, Run
from unbackdoor.defenses.base.defense import Repair
from unbackdoor.defenses.fmp import FMP
from unbackdoor.ranking.ranking import Ranker


class StoppedError(Exception):
    pass


def ranked(monkeypatch) -> list[str]:
    """Fills with the names of the layers that are ranked."""
    names: list[str] = []
    rank = Ranker.rank
    monkeypatch.setattr(
        Ranker,
        "rank",
        lambda self, layer, *args: (names.append(layer.name), rank(self, layer, *args))[1],
    )
    return names


RUN = Run(precision="fp32")
RESUMED = FMP(p=3, epochs=2, batch=8, ranking_images=8)


def stop_at(stage: str, units: int) -> Progress:
    """Stops a stage as soon as more than so many units of it are done."""

    def progress(now: str, done: int, total: int) -> None:
        if now == stage and done > units:
            raise StoppedError

    return progress


def test_a_stopped_ranking_goes_on_with_the_next_layer_and_gives_the_same_bits(
    tmp_path, monkeypatch
):
    whole = RESUMED.repair(noisy_net(), noise(), RUN)
    names = ranked(monkeypatch)
    with pytest.raises(StoppedError):  # in the second layer; the first has 6 channels
        RESUMED.repair(
            noisy_net(), noise(), replace(RUN, progress=stop_at("ranking", 6), cache=tmp_path)
        )
    assert names == ["0", "3"]
    told: list[tuple[str, int, int]] = []
    parts: list[tuple[str, str]] = []
    run = replace(
        RUN,
        cache=tmp_path,
        progress=lambda *step: told.append(step),
        part=lambda *part: parts.append(part),
    )
    again = RESUMED.repair(noisy_net(), noise(), run)
    assert names == ["0", "3", "3"] and parts == [("ranking", "3")]
    assert told[0] == ("ranking", 6, 15) and ("ranking", 15, 15) in told
    assert_same(again, whole)


def test_a_stopped_tuning_goes_on_and_ranks_nothing_again(tmp_path, monkeypatch):
    whole = RESUMED.repair(noisy_net(), noise(), RUN)
    names = ranked(monkeypatch)
    with pytest.raises(StoppedError):  # 24 images are 3 steps an epoch
        RESUMED.repair(
            noisy_net(), noise(), replace(RUN, progress=stop_at("fine-tuning", 4), cache=tmp_path)
        )
    told: list[tuple[str, int, int]] = []
    run = replace(RUN, cache=tmp_path, progress=lambda *step: told.append(step))
    again = RESUMED.repair(noisy_net(), noise(), run)
    assert names == ["0", "3"]
    assert told[:2] == [("ranking", 15, 15), ("fine-tuning", 3, 6)]
    assert_same(again, whole)


def assert_same(one: Repair, other: Repair) -> None:
    for key, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[key]), key
    for name in other.silenced:
        assert torch.equal(one.silenced[name], other.silenced[name])
        assert torch.equal(one.scores[name], other.scores[name])


@pytest.mark.parametrize(
    "change",
    ["nothing", "tuning", "weight", "mean", "act", "images", "seed", "precision", "eps", "fast"],
)
def test_what_was_kept_is_used_for_the_same_ranking_alone(change, tmp_path, monkeypatch):
    def normalised(act: type[nn.Module] = nn.ReLU) -> nn.Module:
        model = noisy_net(act)
        model.register_buffer("mean", torch.zeros(1), persistent=False)
        return model

    run = replace(RUN, cache=tmp_path)
    fields = {"p": 3, "epochs": 0, "ranking_images": 8}
    FMP(**fields).repair(normalised(), noise(), run)
    names = ranked(monkeypatch)
    monkeypatch.setattr(Ranker, "race", Ranker.rank)
    model = normalised(nn.GELU if change == "act" else nn.ReLU)
    with torch.no_grad():
        model[7].weight[0, 0] += change == "weight"
        model.mean += change == "mean"
    clean = noise()
    clean.pixels[:, 0, 0, 0] ^= change == "images"
    run = replace(
        run,
        seed=int(change == "seed"),
        precision="bf16" if change == "precision" else "fp32",
    )
    fields |= {"eps": {"eps": 0.05}, "fast": {"fast": True}, "tuning": {"epochs": 1}}.get(
        change, {}
    )
    FMP(**fields).repair(model, clean, run)
    assert names == ([] if change in ("nothing", "tuning") else ["0", "3"])
