import math

import pytest
import torch
from torch import nn

from defenses.samples import task
from unbackdoor.core.errors import ModelError
from unbackdoor.core.run import Run
from unbackdoor.defenses.bnp import BNP, divergence, seen


def test_the_divergence_of_two_normal_distributions():
    mean, var = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([4.0, 1.0, 1.0])
    other_mean, other_var = torch.tensor([1.0, 3.0, 0.0]), torch.tensor([4.0, 1.0, 4.0])
    expected = torch.tensor([0.0, 4.5, math.log(2) - 3 / 8])
    torch.testing.assert_close(divergence(mean, var, other_mean, other_var), expected)


def test_the_channel_that_remembers_something_else_goes():
    clean, net = task()
    net = net.train()
    with torch.no_grad():
        for _ in range(40):
            net(clean.pixels.float() / 255)
    net.eval()
    net[4].running_mean[3] += 5
    repaired = BNP(u=2, max_acc_drop=1).repair(net, clean, Run())
    assert repaired.silenced["4"].tolist() == [i == 3 for i in range(8)]
    x = clean.pixels[:4].float() / 255
    assert (repaired.model[:5](x)[:, 3] == 0).all()
    assert torch.equal(repaired.model[4].running_mean, net[4].running_mean)


def test_the_clean_statistics_are_those_of_the_batch():
    clean, net = task()
    with torch.no_grad():
        y = net[0](clean.pixels / 255).movedim(1, 0).flatten(1)
    norm = net[1]
    expected = divergence(y.mean(1), y.var(1), norm.running_mean, norm.running_var)
    score = BNP(u=0, held_out=0).repair(net, clean, Run()).scores["1"]
    torch.testing.assert_close(score, expected, rtol=1e-3, atol=1e-5)


def test_each_norm_is_judged_by_what_it_is_given_when_the_model_answers():
    clean, net = task()
    net[1].running_mean += 5  # in train mode the second norm would not get that to see
    with torch.no_grad():
        y = net[:4](clean.pixels / 255).movedim(1, 0).flatten(1)
    found = seen(net.train(), ["4"], clean, Run())["4"]
    torch.testing.assert_close(found.mean, y.mean(1), rtol=1e-4, atol=1e-5)


def test_large_images_go_in_several_passes_whose_moments_are_pooled():
    clean, net = task(n=60)
    sizes = []
    net.register_forward_pre_hook(lambda _, x: sizes.append(len(x[0])))
    pooled = seen(net, ["1"], clean, Run(), most=20 * 64)["1"]
    assert sizes == [20, 20, 20] and net[1].num_batches_tracked >= 0
    at_once = seen(net, ["1"], clean, Run())["1"]
    assert sizes == [20, 20, 20, 60]
    torch.testing.assert_close(pooled.mean, at_once.mean)
    torch.testing.assert_close(pooled.var, at_once.var)
    remembered = net[1].running_mean.clone()
    seen(net, ["1"], clean, Run())
    assert torch.equal(net[1].running_mean, remembered)


def test_a_network_without_batch_norms_is_refused_before_any_work():
    clean, _ = task()
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.Flatten(), nn.Linear(72, 2))
    with pytest.raises(ModelError, match="bnp needs batch norms"):
        BNP().repair(net, clean, Run())
