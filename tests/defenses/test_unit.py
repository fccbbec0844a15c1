import copy

import pytest
import torch
from torch import nn

from defenses.samples import task
from unbackdoor.core.errors import ModelError
from unbackdoor.core.run import Run
from unbackdoor.defenses.unit import UNIT, Price, usual
from unbackdoor.network.layers import Layer


def test_a_bound_starts_at_what_is_usual_of_the_rectified_activation():
    clean, _ = task()
    net = nn.Conv2d(1, 2, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([2.0, -1.0]).view(2, 1, 1, 1))
    start = usual(net, [Layer("", None, 2)], 3.0, clean, Run())[""]
    bright = 2 * clean.pixels.float() / 255
    expected = torch.stack([bright.mean() + 3 * bright.std(correction=0), torch.tensor(0.0)])
    torch.testing.assert_close(start, expected)


def test_the_tightest_state_within_the_cost_is_kept():
    clean, net = task()
    told = {"epochs": 6, "batch": 16, "lr": 0.05, "price": 1.0, "max_acc_drop": 1.0}
    tight = UNIT(**told, cost=1.0).repair(net, clean, Run()).scores.values()
    assert torch.cat(list(tight)).mean() < 0.8


def test_the_price_follows_the_accuracy():
    price = Price(1.0, 2, 1.5)
    told = []
    for good in (True, True, False, False, False, False, True, False, True, True):
        price.follow(good)
        told.append(price.now)
    low = 2 / 2**1.5
    assert told == pytest.approx([1, 2, 2, low, low, low / 2**1.5, *[low / 2**1.5] * 3, 1.0])


def test_the_objective_is_cross_entropy_and_the_price_of_every_layers_mean_bound(monkeypatch):
    clean, net = task()
    kept = {}
    monkeypatch.setattr("unbackdoor.defenses.unit.fit", lambda *a, **k: kept.update(k))
    repaired = UNIT(price=0.5, held_out=0).mend(net, clean, Run()).model
    x, y = clean.pixels.float() / 255, clean.labels
    sizes = [(repaired[i].bound.share * repaired[i].bound.most).mean() for i in (1, 4)]
    expected = torch.nn.functional.cross_entropy(repaired(x), y) + 0.5 * sum(sizes)
    torch.testing.assert_close(kept["objective"](repaired, x, y), expected)


class Tokens(nn.Module):
    """A transformer's shape: patches, and a unit of two hidden units at every token."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, 3, 4, 4)
        self.up, self.down, self.head = nn.Linear(3, 5), nn.Linear(5, 3), nn.Linear(3, 2)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.head((tokens + self.down(self.up(tokens).relu())).mean(1))


class Stemmed(Tokens):
    """The same behind a stem of convolutions and a norm, and with a norm that is never called."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1), nn.ReLU())
        self.spare = nn.BatchNorm2d(4)

    def forward(self, x):
        return super().forward(self.stem(x))


def test_a_stem_of_convolutions_does_not_hide_the_transformer_behind_it():
    clean, _ = task()
    found = {spot.name for spot in UNIT()._spots(Stemmed(), clean)}
    assert found == {"patches", "up", "stem.0"}


def test_a_norm_that_no_pass_calls_has_no_bound():
    clean, net = task()
    net[0].register_module("spare", nn.BatchNorm2d(6))
    repaired = UNIT(epochs=1, batch=16).repair(net, clean, Run())
    assert set(repaired.scores) == {"1", "4"}
    assert all(share.isfinite().all() for share in repaired.scores.values())


class Gated(Tokens):
    """Its hidden units are gated, which no bound covers."""

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.head((tokens + self.down(self.up(tokens) * self.up.bias)).mean(1))


def test_a_transformer_whose_hidden_units_are_not_found_is_refused():
    clean, _ = task()
    with pytest.raises(ModelError, match="unit finds no MLP block behind the patches of Gated"):
        UNIT().repair(Gated(), clean, Run())


def test_the_hidden_units_of_a_transformer_are_bounded_at_every_token():
    clean, _ = task()
    torch.manual_seed(0)
    repaired = UNIT(epochs=3, batch=16, max_acc_drop=1).repair(Tokens(), clean, Run())
    assert set(repaired.scores) == {"patches", "up"}
    bound = repaired.model.up.bound
    hidden = repaired.model.up(50 * torch.randn(4, 4, 3))
    assert hidden.shape == (4, 4, 5)
    assert (hidden <= bound.share * bound.most + 1e-6).all()


def test_what_no_clean_image_does_is_cut_off():
    clean, net = task()
    x = clean.pixels[:8].float() / 255
    repaired = UNIT(epochs=5, batch=16).repair(net, clean, Run())
    wild = 50 * torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for layer in (1, 4):
        bound = repaired.model[layer].bound
        limit = (bound.share * bound.most).view(-1, 1, 1)
        assert (repaired.model[: layer + 1](wild) <= limit + 1e-6).all()
        assert (bound.share < 1).any() and (bound.share >= 0).all()
    assert (repaired.model(x).argmax(1) == net(x).argmax(1)).float().mean() > 0.8
    for name, weight in net.state_dict().items():
        assert torch.equal(weight, repaired.model.state_dict()[name])


def test_bounds_that_cost_too_much_are_not_kept():
    clean, net = task(classes=4)
    repaired = UNIT(epochs=3, batch=16, lr=1.0, price=100.0, cost=0.0).repair(net, clean, Run())
    notes = repaired.notes
    assert notes["held_out_acc_after"] > notes["held_out_acc_before"] - 0.2


def test_a_network_without_norms_is_bounded_behind_its_convolutions():
    clean, _ = task()
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2))
    assert set(UNIT(epochs=1, max_acc_drop=1).repair(net, clean, Run()).scores) == {"0"}
    with pytest.raises(ModelError):
        UNIT().repair(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), clean, Run())


def test_of_few_images_all_judge_the_bounds():
    clean, net = task()
    few = clean[slice(0, 20)]
    repaired = UNIT(epochs=3, batch=10, cost=1.0).repair(net, few, Run())
    assert all((share < 1).any() for share in repaired.scores.values())


@pytest.mark.parametrize("spread", [1.0, 4.0])
def test_bounds_start_as_far_out_as_the_spread_says(spread):
    clean, net = task()
    method = UNIT(spread=spread, epochs=0, held_out=0)
    repaired = method.mend(copy.deepcopy(net), clean, Run()).model
    start = usual(net, [Layer("1", None, 6), Layer("4", None, 8)], spread, clean, Run())
    for name, most in start.items():
        torch.testing.assert_close(repaired.get_submodule(name).bound.most, most)
