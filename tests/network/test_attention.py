import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unbackdoor.core.errors import ModelError
from unbackdoor.models.preact_resnet18 import PreActResNet18
from unbackdoor.network.attention import attention, cuts_patches, refuse_patches, stage_maps, stages


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


def mixing(stem, layers):
    """Convolutions, then so many linear layers of tokens."""
    tokens = nn.Sequential(nn.Flatten(2), *(nn.Linear(16, 16) for _ in range(layers)))
    return nn.Sequential(*stem, tokens, nn.Flatten(), nn.Linear(32, 2))


def test_a_transformer_is_known_by_its_tokens_whatever_cuts_its_patches():
    x = torch.rand(2, 1, 16, 16)
    one = [nn.Conv2d(1, 2, 4, 4)]
    stem = [nn.Conv2d(1, 2, 3, 2, 1), nn.Conv2d(2, 2, 3, 2, 1)]
    none = [nn.Unflatten(2, (4, 4)), nn.Flatten(3), nn.Flatten(1, 2), nn.Conv1d(4, 2, 1)]
    none += [nn.AdaptiveAvgPool1d(16)]
    for patches in (one, stem, none):
        net = mixing(patches, 3)
        assert cuts_patches(net, x)
        with pytest.raises(ModelError, match="nad needs feature maps behind the first layers"):
            refuse_patches(net, x, "nad")


def test_tokens_at_the_end_or_in_the_middle_make_no_transformer():
    x = torch.rand(2, 1, 4, 4)
    pooling = mixing([nn.Conv2d(1, 2, 3, 1, 1), nn.Conv2d(2, 2, 3, 1, 1)], 1)
    between = nn.Sequential(
        *(nn.Conv2d(1, 2, 1), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)),
        *(nn.Conv2d(2, 2, 1), nn.Flatten(), nn.Linear(32, 2)),
    )
    plain = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(32, 2))
    assert not any(cuts_patches(net, x) for net in (pooling, between, plain))
