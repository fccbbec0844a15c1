import math

import pytest
import torch

from defenses.samples import task
from unbackdoor.core.errors import UnbackdoorWarning
from unbackdoor.core.run import Run
from unbackdoor.defenses.ims import IMS, Gated, agreement, disagreement, scaled
from unbackdoor.network.layers import find_layers

RUN = Run(precision="fp32")


def gated():
    clean, net = task()
    layers = find_layers(net, clean.pixels[:2] / 255)
    return clean, net, Gated(net.requires_grad_(False), layers)


def test_agreement_is_of_the_probabilities():
    sure = torch.tensor([[math.log(0.9), math.log(0.1)]])
    half = torch.zeros(1, 2)
    assert agreement(sure, half).item() == pytest.approx(-math.log(0.5), rel=1e-5)
    assert agreement(sure, sure).item() == pytest.approx(-math.log(0.82), rel=1e-5)
    assert disagreement(sure, sure).item() == pytest.approx(-math.log(0.18), rel=1e-4)


def test_a_closed_channel_is_open_in_the_inverse_and_a_shared_one_in_both():
    _, _, both = gated()
    with torch.no_grad():
        both.kept[1].copy_(torch.tensor([0.0, 0.0, *[1.0] * 6]))
        both.shared[1].copy_(torch.tensor([0.0, 1.0, 0.0, *[1.0] * 5]))
    plain, inverse = both.gates()[1], both.gates(inverse=True)[1]
    close = {"atol": 1e-3, "rtol": 0}
    torch.testing.assert_close(plain, torch.tensor([0.0, 1, 1, 1, 1, 1, 1, 1]), **close)
    torch.testing.assert_close(inverse, torch.tensor([1.0, 1, 0, 1, 1, 1, 1, 1]), **close)


def test_what_a_gate_does_is_in_the_weights_afterwards():
    clean, net, both = gated()
    with torch.no_grad():
        both.kept[0].uniform_(0, 1)
        both.shared[0].uniform_(0, 1)
    x = clean.pixels / 255
    expected = both(x)
    assert not torch.allclose(expected, net(x), atol=1e-2)
    both.net = net  # `bake_` reads the original and writes a copy
    _, copy = task()
    gates = both.bake_(copy.eval())
    torch.testing.assert_close(copy(x), expected)
    assert set(gates) == {"0", "3"} and set(scaled(net, both.layers[0], gates["0"])) == {
        "1.weight",
        "1.bias",
    }


def test_changes_turn_the_original_and_not_the_inverse_within_the_ball():
    clean, net, both = gated()
    x = clean.pixels[:20] / 255
    answers = net(x)
    method = IMS(radius=2.0, step_lr=0.05)
    moved = method.moved(both, net, x, answers)
    assert (moved - x).flatten(1).norm(dim=1).max() <= 2.0001
    turned = (net(moved).argmax(1) != answers.argmax(1)).float().mean()
    assert turned > 0.3
    assert agreement(both(moved, inverse=True), net(moved)) < 0.7


def test_the_masked_network_learns_to_resist_what_the_inverse_obeys():
    clean, net = task()
    x = clean.pixels[:40] / 255
    told = {"rounds": 60, "patience": 60, "steps": 5, "step_lr": 0.05, "radius": 2.0, "price": 0.1}
    method = IMS(**told, held_out=0.0)
    repaired = method.repair(net, clean, RUN)
    both = Gated(net.requires_grad_(False), find_layers(net, x[:2]))
    moved = method.moved(both, net, x, net(x))
    kept = [(m(moved).argmax(1) == net(x).argmax(1)).float().mean() for m in (net, repaired.model)]
    assert kept[1] > kept[0] + 0.05
    assert (repaired.model(x).argmax(1) == net(x).argmax(1)).float().mean() > 0.85


def test_a_round_weighs_both_networks_and_the_price():
    clean, net, both = gated()
    with torch.no_grad():
        both.kept[1].copy_(torch.tensor([0.1, 0.9] * 4))
        both.shared[1].fill_(0.2)
    x = clean.pixels[:20] / 255
    method = IMS(radius=2.0, step_lr=0.05, price=3.0)
    moved = method.moved(both, net, x, net(x))
    expected = agreement(both(x), net(x)) + agreement(both(moved), net(x))
    expected = expected + agreement(both(moved, inverse=True), net(moved))
    expected = expected + 3.0 * torch.cat(list(both.shared)).mean()
    adam = torch.optim.AdamW(both.parameters(), lr=0.0)
    assert method._round(both, net, adam, x, RUN) == pytest.approx(expected.item(), rel=1e-3)


def test_the_changes_bring_the_inverse_network_and_the_original_together(monkeypatch):
    clean, net, both = gated()
    with torch.no_grad():
        both.shared[1].fill_(0.0)  # and all is kept, so that the inverse network is shut
    monkeypatch.setattr("unbackdoor.defenses.ims.disagreement", lambda *_: torch.zeros(()))
    x = clean.pixels[:20] / 255
    moved = IMS(radius=3.0, step_lr=0.05).moved(both, net, x, net(x))
    apart = [agreement(both(z, inverse=True), net(z)).item() for z in (x, moved)]
    assert apart[1] < apart[0] - 0.01


def test_it_stops_where_the_loss_no_longer_falls():
    clean, net = task()
    seen = []
    run = Run(precision="fp32", progress=lambda _, done, __: seen.append(done))
    with pytest.warns(UnbackdoorWarning, match="changed no weight"):
        IMS(rounds=50, patience=2, lr=1e-12, steps=1, held_out=0.0).repair(net, clean, run)
    assert max(seen) < 50
