import copy
import math

import pytest
import torch

from defenses.samples import backdoored, rate, stamped, task
from unbackdoor.core.run import Run
from unbackdoor.defenses.sau import SAU, disagreement


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


def test_examples_start_at_the_corner_of_the_ball(monkeypatch):
    clean, net = task()
    starts = []

    def watch(self, model, former, x, y, start):
        starts.append(start)
        return x

    monkeypatch.setattr(SAU, "examples", watch)
    SAU(epochs=1, batch=80, held_out=0).mend(net, clean, Run())
    assert (starts[0] == 0.2).all()
