import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from defenses.samples import backdoored, rate, stamped, task
from unbackdoor.core.run import Run
from unbackdoor.defenses.sau import SAU, disagreement
from unbackdoor.training.adversarial import avoidance


def test_models_disagree_by_at_most_log_two():
    same = torch.tensor([[2.0, -1.0]])
    assert disagreement(same, same).item() == pytest.approx(0, abs=1e-7)
    sure, other = torch.tensor([[200.0, 0.0]]), torch.tensor([[0.0, 200.0]])
    assert disagreement(sure, other).item() == pytest.approx(math.log(2))


def test_examples_fool_the_former_model_and_stay_near():
    clean, net = task()
    x, y = clean.pixels.float() / 255, clean.labels
    shared = SAU(radius=0.4, error=1.0).examples(net, net, x, y, torch.zeros_like(x))
    assert (shared - x).abs().max() <= 0.4001
    fooled = (net(shared).argmax(1) != y).float().mean()
    assert fooled > (net(x).argmax(1) != y).float().mean() + 0.2


def test_parting_from_its_former_self_takes_the_backdoor_out():
    clean, net = backdoored()
    assert rate(net, stamped(clean), 1) == 1
    method = SAU(epochs=40, batch=20, lr=0.05, weight=0.1, error=1.0, radius=0.5)
    repaired = method.repair(net, clean, Run()).model
    assert rate(repaired, stamped(clean), 1) == 0
    assert rate(repaired, clean) == 1


def test_norms_keep_their_statistics():
    clean, net = task()
    repaired = SAU(epochs=1, batch=80, held_out=0).repair(net, clean, Run()).model
    assert torch.equal(repaired[1].running_mean, net[1].running_mean)
    assert not torch.equal(repaired[0].weight, net[0].weight)


def test_examples_are_where_the_models_agree():
    clean, net = task()
    other = copy.deepcopy(net)
    with torch.no_grad():
        other[8].weight.copy_(net[8].weight.flip(0))  # takes each class for the other
    x, y = clean.pixels.float() / 255, clean.labels
    shared = SAU(radius=0.4, error=0.0).examples(net, other, x, y, torch.full_like(x, 0.4))
    before, after = (disagreement(net(z), other(z)).mean() for z in (x, shared))
    assert after < before - 0.05


def logits(*classes):
    """A batch of sure answers of three classes."""
    return 4.0 * F.one_hot(torch.tensor(classes), 3).float()


def test_what_is_fooled_or_shared_already_is_climbed_no_further():
    own, y = [torch.tensor([0, 0, 0])] * 2, torch.tensor([0, 0, 0])
    # One image fools neither model, one the first only, one both in the same way.
    told = [logits(0, 1, 2), logits(0, 0, 2) / torch.tensor([[1.0], [1.0], [2.0]])]
    gain, shared = SAU(error=0.5).gain(told, own, y)
    assert shared.tolist() == [False, False, True]
    kept = F.cross_entropy(logits(0), y[:1])  # the first image for both, the second for the other
    expected = 0.5 * 3 * kept / 2 - disagreement(told[0][1:2], told[1][1:2]).sum()
    torch.testing.assert_close(gain, expected)


def test_the_search_ends_where_all_are_shared(monkeypatch):
    clean, net = task()
    steps = []
    told = SAU.gain

    def gain(self, logits, own, y):
        steps.append(1)
        found, shared = told(self, logits, own, y)
        return found, shared | (len(steps) == 2)

    monkeypatch.setattr(SAU, "gain", gain)
    x = clean.pixels.float() / 255
    SAU(steps=5).examples(net, net, x, clean.labels, torch.zeros_like(x))
    assert len(steps) == 2


class Sure(nn.Module):
    """Says class 0 of dark images and class 1 of bright ones; `weight` moves nothing."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        return 8 * F.one_hot((x.mean((1, 2, 3)) > 0.5).long(), 2) - 4 + self.weight


def test_only_answers_that_the_example_turned_are_unlearned(monkeypatch):
    kept = {}
    monkeypatch.setattr("unbackdoor.defenses.sau.fit", lambda *_, **told: kept.update(told))
    monkeypatch.setattr(SAU, "examples", lambda self, model, former, x, y, start: 1 - x)
    net = Sure()
    SAU().mend(net, task()[0], Run())
    x, dark = torch.full((1, 1, 4, 4), 0.1), torch.tensor([0])
    apart = kept["objective"](net, x, dark) - F.cross_entropy(net(x), dark)
    torch.testing.assert_close(apart, avoidance(net(1 - x), torch.tensor([1])).mean())
    # Of a bright image that the former model took for a dark one the answer did not turn.
    monkeypatch.setattr(SAU, "examples", lambda self, model, former, x, y, start: x)
    wrong = torch.tensor([1])
    torch.testing.assert_close(kept["objective"](net, x, wrong), F.cross_entropy(net(x), wrong))
    assert kept["crop"] is False


def test_examples_start_at_the_corner_of_the_ball(monkeypatch):
    clean, net = task()
    starts = []

    def watch(self, model, former, x, y, start):
        starts.append(start)
        return x

    monkeypatch.setattr(SAU, "examples", watch)
    SAU(epochs=1, batch=80, held_out=0).mend(net, clean, Run())
    assert (starts[0] == 0.2).all()


def test_examples_are_shared_with_the_model_as_it_came(monkeypatch):
    clean, net = task()
    came, seen = net[0].weight.detach().clone(), []

    def watch(self, model, former, x, y, start):
        seen.append([one[0].weight.detach().clone() for one in (model, former)])
        return x

    monkeypatch.setattr(SAU, "examples", watch)
    SAU(epochs=2, batch=40, lr=0.01).mend(net, clean, Run())
    assert all(torch.equal(former, came) for _, former in seen)
    assert [torch.equal(now, came) for now, _ in seen] == [True, False, False, False]
