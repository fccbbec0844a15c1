import torch
from torch import nn
from torch.nn import functional as F

from defenses.samples import task
from unbackdoor.training.neuron_noise import drawn, scaled_parameters, under, worst


def test_norms_are_scaled_or_else_convolutions():
    clean, net = task()
    assert set(scaled_parameters(net, clean.pixels / 255)) == {
        "1.weight",
        "1.bias",
        "4.weight",
        "4.bias",
    }
    plain = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, 2))
    assert set(scaled_parameters(plain, torch.rand(2, 1, 3, 3))) == {
        "0.weight",
        "0.bias",
        "2.weight",
        "2.bias",
    }


def test_only_what_a_pass_calls_is_scaled():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, 2))
    net[0].register_module("spare", nn.BatchNorm2d(2))
    x, y = torch.rand(2, 1, 3, 3), torch.tensor([0, 1])
    values = scaled_parameters(net, x)
    assert set(values) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    start = drawn(values, 0.3, torch.Generator().manual_seed(0))
    assert worst(net, x, y, start, radius=0.3, step=0.1, steps=1).keys() == values.keys()


def test_noise_scales_a_channel_by_its_share():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x = torch.rand(3, 1, 4, 4)
    values = scaled_parameters(net, x)
    noise = {"0.weight": torch.tensor([0.5, -1.0]), "0.bias": torch.tensor([0.5, -1.0])}
    expected = net(x) * torch.tensor([1.5, 0.0])
    torch.testing.assert_close(under(net, values, noise, x), expected)


def test_the_worst_noise_raises_the_loss_and_stays_within_its_radius():
    clean, net = task()
    x, y = clean.pixels / 255, clean.labels
    values = scaled_parameters(net, x)
    start = drawn(values, 0.3, torch.Generator().manual_seed(0))
    found = worst(net, x, y, start, radius=0.3, step=0.1, steps=5)
    lost = [F.cross_entropy(under(net, values, one, x), y) for one in (start, found)]
    assert lost[1] > 10 * lost[0]
    assert all(d.abs().max() <= 0.3 for d in found.values())
    assert max(d.abs().max() for d in start.values()) > 0.25
