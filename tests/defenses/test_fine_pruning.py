import pytest
import torch
from torch import nn

from defenses.samples import task
from unbackdoor.core.images import Images
from unbackdoor.core.run import Run
from unbackdoor.defenses.fine_pruning import FinePruning, activations
from unbackdoor.network.layers import Layer


def test_activations_are_rectified_means_behind_the_norm():
    # One image of 0 and one of 1; channel 0 gives x, channel 1 gives -x, the norm adds 0.5 to it.
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2, eps=0)).eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
        net[1].bias[1] = 0.5
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    images = Images(pixels.contiguous(), torch.tensor([0, 1]), ("a", "b"))
    mean = activations(net, Layer("0", "1", 2), images, Run())
    torch.testing.assert_close(mean, torch.tensor([0.5, 0.25]))
    bare = activations(net, Layer("0", None, 2), images, Run())
    torch.testing.assert_close(bare, torch.tensor([0.5, 0.0]))


def test_sleeping_channels_go_first_and_stay_silent_through_fine_tuning():
    clean, net = task()
    with torch.no_grad():
        net[4].bias[:4] = -50.0  # rectified away
    net[5] = nn.LeakyReLU(0.01)  # lets a gradient through, so that pruned channels could grow
    method = FinePruning(epochs=2, batch=16, cost=1.0, max_acc_drop=1.0)
    repaired = method.repair(net, clean, Run())
    assert repaired.silenced["3"][:4].all()
    assert repaired.notes["share"] >= 0.5
    x = clean.pixels.float() / 255
    for train in (True, False):
        out = repaired.model.train(train)[:5](x)
        assert (out[:, repaired.silenced["3"]] == 0).all()
    assert not torch.equal(repaired.model[0].weight, net[0].weight)


@pytest.mark.parametrize("cost", [0.0, 1.0])
def test_the_cost_bounds_the_share(cost):
    clean, net = task(classes=4)
    share = (
        FinePruning(epochs=1, batch=16, cost=cost, max_acc_drop=1)
        .repair(net, clean, Run())
        .notes["share"]
    )
    assert share == 31 / 32 if cost else share < 31 / 32
