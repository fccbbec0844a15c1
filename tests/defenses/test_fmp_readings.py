"""FMP as its text and its authors' scripts have it: every reading changes what it should."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from defenses.samples import noise, noisy_net
from unbackdoor.core.errors import ImagesError, ParameterError, UnbackdoorWarning
from unbackdoor.core.images import Images, to_float
from unbackdoor.core.method import build
from unbackdoor.core.run import Run
from unbackdoor.defenses.base import defense
from unbackdoor.defenses.fine_tuning import FineTuning
from unbackdoor.defenses.fmp import FMP
from unbackdoor.network.layers import find_layers
from unbackdoor.ranking.ranking import Ranking

RUN = Run(precision="fp32")
SMALL = {"p": 3, "epochs": 0, "ranking_images": 24}


class OneOf20(nn.Module):
    """Of 20 channels, each with its own pixel column, one alone decides."""

    def __init__(self, decisive: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 20, (1, 20), bias=False)
        self.decisive = decisive
        self.conv.weight.data.copy_(torch.eye(20).view(20, 1, 1, 20))

    def forward(self, x: Tensor) -> Tensor:
        value = self.conv(x)[:, self.decisive, 0, 0]
        inside = 0.12 - (value - 0.5).abs()
        return torch.stack([inside, torch.zeros_like(inside)], 1)


def ranked(model: nn.Module | None = None, **fields) -> dict[str, Ranking]:
    model = model or noisy_net()
    layers = find_layers(model, to_float(noise().pixels[:2]))
    return FMP(**{**SMALL, **fields}).rankings(model, layers, noise(), RUN)


@pytest.mark.parametrize(("share", "count"), [("lowest", 5), ("cluster", 1), ("outliers", 2)])
def test_the_share_says_how_many_channels_go(share, count):
    """One of 20 stands apart: a quarter by p = 4, itself alone as a cluster, a tenth otherwise."""
    pixels = torch.full((6, 1, 1, 20), 128, dtype=torch.uint8)
    grey = Images(pixels, torch.zeros(6, dtype=torch.int64), ("in", "out"))
    asked = FMP(p=4, eps=0.2, alpha=0.1, share=share, ranking_images=4, epochs=0)
    mask = asked.repair(OneOf20(13), grey, RUN).silenced["conv"]
    assert int(mask.sum()) == count and mask[13]


def test_a_share_that_takes_none_is_said_and_refused():
    with pytest.raises(ParameterError, match="from 2 of 2 layers, which have fewer than 10 ch"):
        FMP(**SMALL, share="outliers").repair(noisy_net(), noise(), RUN)  # 6 and 9 channels
    layers = find_layers(noisy_net(), to_float(noise().pixels[:2]))
    with pytest.warns(UnbackdoorWarning, match=r"nothing from 1 of 2 layers.*stand apart \(0\)"):
        assert FMP(share="cluster")._say(layers[:1], layers) == 1


def test_scores_of_several_sizes_are_means_over_them():
    one, two = (ranked(eps=0.3, step=step)["3"] for step in (0.1, 0.2))
    both = ranked(eps=0.3, step=0.1, sizes=2)["3"]
    assert not torch.equal(one.loss, two.loss)
    torch.testing.assert_close(both.loss, (one.loss + two.loss) / 2)
    torch.testing.assert_close(both.score, (one.score + two.score) / 2)


def test_batch_norms_change_the_ranking_and_not_the_model():
    model = noisy_net()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    plain, other = ranked(model), ranked(model, batch_norms=True)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not torch.allclose(plain["3"].loss, other["3"].loss)
    with pytest.raises(ImagesError, match="two ranking images or more"):
        FMP(**{**SMALL, "ranking_images": 1}, batch_norms=True).repair(model, noise(1), RUN)


def test_each_score_is_another_and_names_itself():
    told = {}
    for score in ("accuracy", "one_class", "margin"):
        repair = FMP(**SMALL, score=score).repair(noisy_net(), noise(), RUN)
        told[repair.score_name.partition(";")[0]] = tuple(repair.scores["0"].tolist())
    assert len(told) == 3
    assert told["accuracy on the images made for a channel"] != told[next(reversed(told))]


@pytest.mark.parametrize(("made", "more"), [(FMP, SMALL), (FineTuning, {})])
@pytest.mark.filterwarnings("ignore:fine_tuning changed no weight")
def test_tuning_ends_at_the_last_learning_rate(monkeypatch, made, more):
    seen = []
    monkeypatch.setattr(defense, "fit", lambda *_, **told: seen.append(told["schedule"]))
    for final in (0.0, 1e-4):
        made(**more, lr=0.01, final_lr=final).repair(noisy_net(), noise(), RUN)
    assert [schedule(0, 10) for schedule in seen] == [1, 1]
    assert [schedule(10, 10) for schedule in seen] == pytest.approx([0, 0.01])
    assert seen[1](5, 10) == pytest.approx((1 + 0.01) / 2)


@pytest.mark.parametrize(
    "other",
    [
        {"share": "cluster"},
        {"share": "outliers"},
        {"score": "margin"},
        {"score": "one_class"},
        {"sizes": 2},
        {"batch_norms": True},
    ],
)
def test_fast_goes_with_the_lowest_accuracies_alone(other):
    build("defense", "fmp", other)
    with pytest.raises(ParameterError, match="fast stops early") as told:
        build("defense", "fmp", {"fast": True, **other})
    assert "\n" not in str(told.value)


def test_a_start_that_eps_cuts_is_refused_with_what_to_do():
    for void in ({"eps": 0.01}, {"eps": 0.02}, {"alpha": 0.06}):
        with pytest.raises(ParameterError, match=r"alpha \(.*must be below eps") as told:
            build("defense", "fmp", void)
        assert "\n" not in str(told.value)
    with pytest.raises(ParameterError, match=r"alpha=0\.003, or projected=false"):
        build("defense", "fmp", {"eps": "0.01"})
    for fine in ({"eps": 0.01, "alpha": 0.003}, {"eps": 0.01, "projected": False}, {"eps": 0.021}):
        build("defense", "fmp", fine)


@pytest.mark.parametrize("name", ["fmp", "fine_tuning"])
def test_the_last_learning_rate_is_not_above_the_first(name):
    with pytest.raises(ParameterError, match="cannot be above lr"):
        build("defense", name, {"lr": 0.01, "final_lr": 0.1})


def test_a_last_learning_rate_of_none_is_told_where_it_always_was():
    """The identities of results that are there hang on it."""
    assert FMP().declaration()["final_lr"] == 0
    assert "final_lr" not in FineTuning().declaration()
    assert FineTuning(final_lr=1e-4).declaration()["final_lr"] == 1e-4
