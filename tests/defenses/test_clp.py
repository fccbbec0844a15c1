import pytest
import torch
from torch import nn

from defenses.samples import task
from unbackdoor.core.errors import ModelError, UnbackdoorWarning
from unbackdoor.core.run import Run
from unbackdoor.defenses.clp import CLP, lipschitz
from unbackdoor.network.layers import Layer


def test_the_bound_of_a_two_channel_net():
    # Channel 0 as a matrix [inputs, positions] is diag(3, 2): singular value 3; channel 1 is
    # [[1, 1], [1, 1]]: singular value 2. Their norms scale by 1 / sqrt(4) and |-3| / sqrt(1).
    net = nn.Sequential(nn.Conv2d(2, 2, (1, 2), bias=False), nn.BatchNorm2d(2, eps=0))
    with torch.no_grad():
        net[0].weight[0, :, 0] = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
        net[0].weight[1, :, 0] = 1.0
        net[1].weight.copy_(torch.tensor([1.0, -3.0]))
        net[1].running_var.copy_(torch.tensor([4.0, 1.0]))
    torch.testing.assert_close(lipschitz(net, Layer("0", "1", 2)), torch.tensor([1.5, 6.0]))


def test_only_the_amplifying_channel_goes():
    clean, net = task()
    with torch.no_grad():
        net[4].weight.copy_(torch.linspace(0.9, 1.1, 8))
        net[4].running_var.fill_(1)
        net[3].weight.fill_(0.01)
        net[3].weight[5].fill_(1.0)
    repaired = CLP(u=2, max_acc_drop=1).repair(net, clean, Run())
    assert repaired.silenced["3"].tolist() == [False] * 5 + [True] + [False] * 2
    x = clean.pixels[:4].float() / 255
    assert (repaired.model[:5](x)[:, 5] == 0).all()
    assert repaired.notes["passes"] < 0.2


def test_nothing_to_prune_warns():
    clean, net = task()
    with pytest.warns(UnbackdoorWarning, match="clp changed no weight"):
        CLP(u=100).repair(net, clean, Run())


@pytest.mark.parametrize("norm", [nn.Identity(), nn.GroupNorm(1, 2)])
def test_a_network_without_batch_norms_is_refused_before_any_work(norm):
    clean, _ = task()
    net = nn.Sequential(nn.Conv2d(1, 2, 3), norm, nn.Flatten(), nn.Linear(72, 2))
    with pytest.raises(ModelError, match="clp needs a convolution that feeds a batch norm"):
        CLP().repair(net, clean, Run())
