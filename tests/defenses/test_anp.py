import copy

import pytest
import torch
from torch import nn

from defenses.samples import task, with_noisy_channel
from unbackdoor.core.errors import ModelError
from unbackdoor.core.run import Run
from unbackdoor.defenses.anp import ANP, worst_noise
from unbackdoor.network.norms import MaskedNorms


def test_the_sign_step_moves_each_channel_up_the_loss_and_stays_within_eps():
    # Eval mode, input 1, label 0: logit 0 is channel 0, logit 1 is channel 1. Less of channel 0
    # and more of channel 1 makes the loss grow, so noise goes down on one and up on the other.
    net = nn.Sequential(nn.BatchNorm2d(2), nn.Flatten())
    nn.init.constant_(net[0].bias, 2.0)
    masked = MaskedNorms(net, ["0"]).eval()
    x, y = torch.ones(1, 2, 1, 1), torch.tensor([0])
    zero = torch.zeros(2)
    [(weight, bias)] = worst_noise(masked, x, y, [(zero, zero)], 0.4)
    torch.testing.assert_close(weight, torch.tensor([-0.4, 0.4]))
    torch.testing.assert_close(bias, torch.tensor([-0.4, 0.4]))
    [(weight, bias)] = worst_noise(masked, x, y, [(zero + 0.1, zero - 0.3)], 0.4)
    torch.testing.assert_close(weight, torch.tensor([-0.3, 0.4]))
    torch.testing.assert_close(bias, torch.tensor([-0.4, 0.1]))


def test_it_prunes_what_fell_and_keeps_the_accuracy():
    clean, net = task()
    net = with_noisy_channel(net)
    repaired = ANP(steps=20, batch=16).repair(net, clean, Run())
    silent = repaired.silenced["4"]
    assert silent[7]
    assert (repaired.model[4].weight[silent] == 0).all()
    assert torch.equal(silent, repaired.scores["4"] < repaired.notes["threshold"])
    assert torch.equal(repaired.model[0].weight, net[0].weight)
    assert torch.equal(repaired.model[1].running_mean, net[1].running_mean)
    assert all(mask.min() >= 0 and mask.max() <= 1 for mask in repaired.scores.values())
    assert repaired.notes["held_out_acc_before"] - repaired.notes["held_out_acc_after"] < 0.2


def test_the_masks_take_the_papers_steps_however_many_images_there_are():
    for n, expected in ((40, 12), (80, 12)):
        clean, net = task(n=n)
        told = {}
        run = Run(progress=lambda stage, done, total, told=told: told.setdefault(stage, total))
        ANP(steps=10, batch=12, held_out=0).mend(net, clean, run)
        assert told["masks"] == expected if n == 40 else 10 <= told["masks"] <= 14
    assert ANP().steps == 2000


def test_the_objective_weighs_the_plain_and_the_disturbed_loss(monkeypatch):
    clean, net = task()
    x, y = clean.pixels.float() / 255, clean.labels
    told = {}
    net.requires_grad_(False)

    def loss(alpha):
        monkeypatch.setattr(
            "unbackdoor.defenses.anp.fit", lambda *a, **k: told.update(k, masked=a[0])
        )
        ANP(alpha=alpha, held_out=0).mend(net, clean, Run())
        return float(told["objective"](told["masked"], x, y).detach())

    plain = float(nn.functional.cross_entropy(MaskedNorms(net, ["1", "4"])(x).detach(), y))
    disturbed = loss(0.0)
    assert loss(1.0) == pytest.approx(plain, rel=1e-4)
    assert disturbed > 1.1 * plain
    assert loss(0.5) == pytest.approx((plain + disturbed) / 2, rel=1e-3)


def test_a_threshold_of_ones_own_is_kept():
    clean, net = task()
    net = with_noisy_channel(net)
    repaired = ANP(steps=4, batch=16, threshold=0.99).repair(net, clean, Run())
    assert repaired.notes["threshold"] == 0.99


@pytest.mark.parametrize("held_out", [0.0, 0.1])
def test_the_threshold_is_as_high_as_the_cost_allows(monkeypatch, held_out):
    clean, net = task()

    def fit(masked, *_, **__):
        for mask in masked.masks:
            mask.data = torch.linspace(0.01, 0.94, len(mask))

    monkeypatch.setattr("unbackdoor.defenses.anp.fit", fit)
    low, high = (
        ANP(cost=cost, held_out=held_out).mend(copy.deepcopy(net), clean, Run()).notes["threshold"]
        for cost in (0.03, 1.0)
    )
    assert 0 < low < high == 0.95


def test_a_network_without_norms_is_refused_before_any_work():
    clean, _ = task()
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(ModelError, match="anp needs norms"):
        ANP().repair(net, clean, Run())


def test_the_disturbance_starts_anywhere_within_eps(monkeypatch):
    clean, net = task()
    told, starts = {}, []

    def watch(masked, x, y, start, eps):
        starts.append(torch.cat([part for pair in start for part in pair]))
        return worst_noise(masked, x, y, start, eps)

    monkeypatch.setattr("unbackdoor.defenses.anp.fit", lambda *a, **k: told.update(k, masked=a[0]))
    monkeypatch.setattr("unbackdoor.defenses.anp.worst_noise", watch)
    ANP(eps=0.3, alpha=0.0).mend(net, clean, Run())
    x, y = clean.pixels.float() / 255, clean.labels
    losses = [float(told["objective"](told["masked"], x, y).detach()) for _ in range(2)]
    assert losses[0] != losses[1]  # the same batch, from another start
    assert all(-0.3 <= start.min() < -0.2 and 0.2 < start.max() <= 0.3 for start in starts)
