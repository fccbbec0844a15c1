import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unbackdoor.core.errors import ModelError
from unbackdoor.models.preact_resnet18 import PreActResNet18
from unbackdoor.network.attention import attention, stage_maps, stages


def test_attention_of_a_known_activation():
    maps = torch.zeros(2, 2, 1, 3)
    maps[0, :, 0, 0] = torch.tensor([1.0, -1.0])  # 1 + 1
    maps[0, 0, 0, 2] = 2.0 * 0.5**0.5  # 2
    maps[1, 1, 0, 1] = 7.0
    expected = torch.tensor([[0.5**0.5, 0, 0.5**0.5], [0, 1, 0]])
    torch.testing.assert_close(attention(maps), expected)
    torch.testing.assert_close(attention(3 * maps), expected)


def test_the_stages_of_a_residual_network_are_its_stages():
    net = PreActResNet18(10, width=2)
    x = torch.rand(2, 3, 32, 32)
    assert stages(net, x, "nad") == ("layer1", "layer2", "layer3", "layer4")
    with stage_maps(net, ("layer2", "layer4")) as maps:
        net(x)
    assert maps["layer2"].shape == (2, 4, 16, 16)
    assert maps["layer4"].shape == (2, 16, 4, 4)


class Shared(nn.Module):
    """Registered in another order than called, with one activation for all."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
        self.late = nn.Conv2d(2, 2, 3, 2)
        self.act = nn.ReLU()
        self.early = nn.Conv2d(1, 2, 3)

    def forward(self, x):
        x = F.max_pool2d(self.act(self.early(x)), 2)
        return self.head(self.act(self.late(x)).mean((2, 3)))


def test_stages_stand_in_call_order_and_are_called_once():
    assert stages(Shared(), torch.rand(2, 1, 16, 16), "nad") == ("early", "late")


def test_a_size_that_comes_back_ends_where_it_ends_last():
    net = nn.Sequential(
        *(nn.Conv2d(1, 2, 3, 1, 1), nn.Conv2d(2, 2, 3, 2, 1), nn.Upsample(scale_factor=2)),
        *(nn.Flatten(), nn.Linear(128, 2)),
    )
    assert stages(net, torch.rand(2, 1, 8, 8), "nad") == ("1", "2")


def test_a_network_without_maps_is_refused_by_name():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(ModelError, match="nad needs feature maps of an area; Sequential has none"):
        stages(net, torch.rand(2, 1, 2, 2), "nad")
