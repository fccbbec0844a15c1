import copy

import pytest
import torch
from torch import nn

from defenses.samples import task
from unbackdoor.core.errors import ModelError, UnbackdoorWarning
from unbackdoor.core.run import Run
from unbackdoor.defenses.ims import IMS
from unbackdoor.network.gates import Gated
from unbackdoor.network.inserts import Gate
from unbackdoor.training.agreement import agreement, disagreement

RUN = Run(precision="fp32")
HOSTS = {"0": 6, "3": 8}


def gated():
    clean, net = task()
    net.requires_grad_(False)
    return clean, net, Gated(copy.deepcopy(net), HOSTS, 20.0)


def test_changes_turn_the_original_and_stay_small():
    clean, net, both = gated()
    x = clean.pixels[:20] / 255
    answers = net(x)
    moved = IMS(radius=0.3, step_lr=0.05).moved(both, net, x, answers)
    assert 0.29 < (moved - x).abs().max() <= 0.3001  # for each pixel, not for all together
    assert (moved - x).flatten(1).norm(dim=1).max() > 1
    assert moved.min() < 0 or moved.max() > 1  # and out of [0, 1]
    turned = (net(moved).argmax(1) != answers.argmax(1)).float().mean()
    assert turned > 0.3
    assert agreement(both(moved, inverse=True), net(moved)) < 0.7


def test_the_changes_bring_the_inverse_network_and_the_original_together(monkeypatch):
    clean, net, both = gated()
    with torch.no_grad():
        both.shared[1].fill_(0.0)  # and all is kept, so that the inverse network is shut
    monkeypatch.setattr("unbackdoor.defenses.ims.disagreement", lambda *_: torch.zeros(()))
    x = clean.pixels[:20] / 255
    moved = IMS(radius=3.0, step_lr=0.05).moved(both, net, x, net(x))
    apart = [agreement(both(z, inverse=True), net(z)).item() for z in (x, moved)]
    assert apart[1] < apart[0] - 0.01


def split():
    clean, net, both = gated()
    with torch.no_grad():
        both.kept[1].copy_(torch.tensor([0.1, 0.9] * 4))
        both.shared[1].fill_(0.2)
    return clean.pixels[:20] / 255, net, both


def test_first_the_two_networks_part_on_clean_images():
    x, net, both = split()
    expected = agreement(both(x), net(x)) + disagreement(both(x, inverse=True), net(x))
    assert IMS().parted(both, net, x).item() == pytest.approx(expected.item(), rel=1e-5)


def test_then_the_masked_network_resists_and_the_inverse_obeys():
    x, net, both = split()
    method = IMS(radius=2.0, step_lr=0.002)
    moved = method.moved(both, net, x, net(x))
    inverse = both(moved, inverse=True)
    expected = agreement(both(x), net(x)) + agreement(both(moved), net(x))
    expected = expected + agreement(inverse, net(moved)) + disagreement(inverse, net(x))
    expected = expected + disagreement(both(x, inverse=True), net(x))
    assert method.resisted(both, net, x).item() == pytest.approx(expected.item(), rel=1e-5)


def phases(monkeypatch, method, model, clean):
    """(objective, rounds, price) of each phase."""
    told = []

    def learn(self, gated, objective, rounds, price, *_):
        told.append((objective.func.__name__, rounds, price))

    monkeypatch.setattr(IMS, "_learn", learn)
    method.mend(model, clean, RUN)
    return told


def test_the_price_is_paid_at_first_and_at_last(monkeypatch):
    clean, net = task()
    told = phases(monkeypatch, IMS(), net, clean)
    assert told == [("parted", 100, 10.0), ("resisted", 200, 0.0), ("resisted", 200, 10.0)]
    told = phases(monkeypatch, IMS(), Tokens(), clean)
    assert [price for _, _, price in told] == [0.0, 0.0, 0.0]
    told = phases(monkeypatch, IMS(price=3.0), Tokens(), clean)
    assert [price for _, _, price in told] == [3.0, 0.0, 3.0]


def test_what_is_paid_for_is_what_the_networks_do_not_share():
    clean, _, both = gated()
    with torch.no_grad():
        for shared in both.shared:
            shared.fill_(0.5)
    method = IMS(lr=0.1)
    method._learn(both, lambda x: 0 * both(x).sum(), 3, 10.0, clean, RUN, "masks")
    assert all((shared > 0.7).all() for shared in both.shared)


@pytest.mark.parametrize(("falls", "rounds"), [(0.995, 4), (0.9, 10)])
def test_a_phase_ends_where_its_loss_no_longer_falls(falls, rounds):
    clean, _, both = gated()
    seen = []

    def objective(x):
        seen.append(len(x))
        return falls ** len(seen) + 0 * both(x).sum()

    method = IMS(patience=2, batch=50)
    method._learn(both, objective, 10, 0.0, clean, RUN, "masks")
    assert seen == [50] * rounds


def test_the_masked_network_learns_to_resist_what_the_inverse_obeys():
    clean, net = task()
    x = clean.pixels[:40] / 255
    told = {"first_rounds": 40, "rounds": 60, "steps": 5, "step_lr": 0.05, "radius": 0.5}
    method = IMS(**told, price=0.1, held_out=0.0)
    repaired = method.repair(net, clean, RUN)
    net.requires_grad_(False)
    moved = method.moved(Gated(copy.deepcopy(net), HOSTS, 20.0), net, x, net(x))
    kept = [(m(moved).argmax(1) == net(x).argmax(1)).float().mean() for m in (net, repaired.model)]
    assert kept[1] > kept[0] + 0.05
    assert (repaired.model(x).argmax(1) == net(x).argmax(1)).float().mean() > 0.85
    assert repaired.scores.keys() == HOSTS.keys()


class Block(nn.Module):
    """Attention left out, which has no part in it."""

    def __init__(self):
        super().__init__()
        self.before, self.after = nn.LayerNorm(4), nn.LayerNorm(4)
        self.mlp = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))

    def forward(self, x):
        return x + self.mlp(self.after(self.before(x)))


class Tokens(nn.Module):
    """A transformer of two blocks."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.patches, self.head = nn.Conv2d(1, 4, 4, 4), nn.Linear(4, 2)
            self.blocks = nn.Sequential(Block(), Block())

    def forward(self, x):
        return self.head(self.blocks(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


def test_a_transformer_has_gates_behind_its_blocks():
    clean, _ = task()
    told = {"first_rounds": 20, "rounds": 2, "steps": 1, "lr": 0.1, "held_out": 0.0}
    repaired = IMS(**told).repair(Tokens(), clean, RUN)
    found = {name for name, m in repaired.model.named_modules() if isinstance(m, Gate)}
    assert found == {"blocks.0.gate", "blocks.1.gate"}
    assert repaired.scores.keys() == {"blocks.0", "blocks.1"}
    assert torch.equal(repaired.model.blocks[0].gate.share, repaired.scores["blocks.0"])
    assert (repaired.scores["blocks.0"] < 1).any()
    assert torch.equal(repaired.model.patches.weight, Tokens().patches.weight)


class Wrapped(nn.Module):
    """A layer behind a norm, as some transformers are made of: no module is a whole block."""

    def __init__(self):
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(4), nn.Linear(4, 4)

    def forward(self, x):
        return x + self.layer(self.norm(x)).relu()


def test_a_transformer_without_blocks_is_refused_and_not_masked_at_its_patches():
    clean, _ = task()
    net = Tokens()
    net.blocks = nn.Sequential(Wrapped(), Wrapped())
    with pytest.raises(ModelError, match="two layer norms themselves; Tokens has none"):
        IMS().repair(net, clean, RUN)


def test_a_network_without_channels_is_refused():
    clean, _ = task()
    tokens = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 4), nn.Flatten())
    with pytest.raises(ModelError, match="ims needs convolutions or the blocks"):
        IMS().repair(nn.Sequential(nn.Flatten(1, 2), tokens, nn.Linear(32, 2)), clean, RUN)


def test_no_rounds_change_no_weight():
    clean, net = task()
    with pytest.warns(UnbackdoorWarning, match="changed no weight"):
        IMS(first_rounds=0, rounds=0, held_out=0.0, slope=200.0).repair(net, clean, RUN)
