"""Which norm belongs to which convolution: by what flows, not by names."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from network.nets import Net, X, assert_silent, conv, half, outputs, pairs, residual
from unbackdoor.network.channels import silenced
from unbackdoor.network.layers import Layer, find_layers


@pytest.mark.parametrize("in_place", [False, True])
def test_late_shortcut_and_sum_pair_by_data_flow(in_place):
    model = residual(in_place)
    expected = {"stem": None, "short": "short_bn", "conv1": "bn1", "conv2": "bn2"}
    assert pairs(model) == expected
    assert list(pairs(model)) == ["stem", "short", "conv1", "conv2"]  # the order of the calls
    layers = find_layers(model, X)
    assert_silent(silenced(model, layers, half(layers)), layers, half(layers))


def test_a_norm_that_eats_a_sum_is_nobodys():
    def added(net, x):
        return net.bn(net.a(x) + net.b(x))

    def added_in_place(net, x):
        out = net.a(x)
        out += net.b(x)
        return net.bn(out)

    for flow in (added, added_in_place):
        model = Net(flow, a=conv(), b=conv(), bn=nn.BatchNorm2d(4))
        assert pairs(model) == {"a": None, "b": None}


def test_names_and_registration_order_do_not_pair():
    """conv1 is followed by norm2 in the flow, by norm1 in name and place."""
    model = Net(
        lambda net, x: net.norm1(net.conv2(F.relu(net.norm2(net.conv1(x))))),
        conv1=conv(),
        norm1=nn.BatchNorm2d(4),
        conv2=conv(4),
        norm2=nn.BatchNorm2d(4),
    )
    assert pairs(model) == {"conv1": "norm2", "conv2": "norm1"}


@pytest.mark.parametrize("act", [nn.ReLU(inplace=True), nn.GELU(), nn.Hardswish(inplace=True)])
def test_a_norm_behind_an_activation_is_not_the_convolutions(act):
    model = Net(lambda net, x: net.bn(net.act(net.a(x))), a=conv(), act=act, bn=nn.BatchNorm2d(4))
    assert pairs(model) == {"a": None}
    layers = find_layers(model, X)
    assert_silent(silenced(model, layers, half(layers)), layers, half(layers))


def channels_last_norm(net: Net, x: Tensor) -> Tensor:
    return net.norm(net.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def tokens_norm(net: Net, x: Tensor) -> Tensor:
    return net.norm(net.a(x).flatten(2).transpose(1, 2)).transpose(1, 2)


class OwnNorm(nn.Module):
    """A channels-first layer norm as ConvNeXt's authors wrote it: no class of torch's."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.ones(channels)),
            nn.Parameter(torch.ones(channels)),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + 1e-6).sqrt()
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class ImageLayerNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(4),
        nn.BatchNorm2d(4, affine=False),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4),
        nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        ImageLayerNorm(4),
        OwnNorm(4),
    ],
    ids=lambda norm: f"{type(norm).__name__}-{sum(p.numel() for p in norm.parameters())}",
)
def test_every_kind_of_norm_is_silenced_with_its_convolution(norm):
    model = Net(lambda net, x: net.norm(net.a(x)), a=conv(), norm=norm)
    assert pairs(model) == {"a": "norm"}
    layers = find_layers(model, X)
    assert_silent(silenced(model, layers, half(layers)), layers, half(layers))


def test_frozen_batch_norm_of_torchvision_is_a_norm():
    from torchvision.ops import FrozenBatchNorm2d

    model = Net(lambda net, x: net.norm(net.a(x)), a=conv(), norm=FrozenBatchNorm2d(4))
    model.norm.bias.fill_(1.0)
    layers = find_layers(model, X)
    assert layers == (Layer("a", "norm", 4),)
    assert_silent(silenced(model, layers, half(layers)), layers, half(layers))


@pytest.mark.parametrize("flow", [channels_last_norm, tokens_norm])
@pytest.mark.parametrize("kind", [nn.LayerNorm, nn.RMSNorm])
def test_a_layer_norm_over_channels_is_silenced(flow, kind):
    model = Net(flow, a=conv(), norm=kind(4))
    layers = find_layers(model, X)
    assert layers == (Layer("a", "norm", 4),)
    quiet = silenced(model, layers, half(layers))
    y = outputs(quiet, ["norm"])["norm"]
    assert (y[..., ::2] == 0).all() and (y[..., 1::2] != 0).any()


@pytest.mark.parametrize(
    "norm",
    [nn.LayerNorm(8), nn.LayerNorm((8, 8, 8)), nn.GroupNorm(2, 8, affine=False)],
    ids=["over the width", "over the map", "without affine"],
)
def test_a_norm_that_cannot_silence_a_channel_is_left_alone(norm):
    """The map is as wide as it has channels: only its values tell which dimension is which."""
    model = Net(lambda net, x: net.norm(net.a(x)), a=conv(3, 8), norm=norm)
    assert pairs(model) == {"a": None}


def test_a_norm_behind_a_channel_shuffle_is_not_in_step():
    def flow(net, x):
        y = net.a(x)
        return net.norm(y.view(2, 2, 2, 8, 8).transpose(1, 2).reshape(2, 4, 8, 8))

    assert pairs(Net(flow, a=conv(), norm=nn.BatchNorm2d(4))) == {"a": None}


def test_a_convolution_that_feeds_two_norms_silences_both():
    def flow(net, x):
        y = net.a(x)
        return net.n1(y) + net.n2(y)

    model = Net(flow, a=conv(), n1=nn.BatchNorm2d(4), n2=nn.GroupNorm(2, 4))
    layers = find_layers(model, X)
    assert layers == (Layer("a", "n1", 4, ("n2",)),)
    assert_silent(silenced(model, layers, half(layers)), layers, half(layers))


def test_a_norm_shared_by_two_convolutions_is_left_alone():
    model = Net(
        lambda net, x: net.n(net.b(net.n(net.a(x)))), a=conv(), b=conv(4), n=nn.BatchNorm2d(4)
    )
    assert pairs(model) == {"a": None, "b": None}
    layers = find_layers(model, X)
    mask = {"a": torch.tensor([True, False, False, False])}
    quiet = silenced(model, layers, mask)
    assert (outputs(quiet, ["b"])["b"][:, 0] != 0).any()  # b's own channel 0 still speaks
    assert torch.equal(quiet.n.weight, model.n.weight)


def test_a_norm_called_twice_on_one_convolution_is_its_own():
    def flow(net, x):
        y = net.a(x)
        return net.n(y) + net.n(y)

    assert pairs(Net(flow, a=conv(), n=nn.BatchNorm2d(4))) == {"a": "n"}


@pytest.mark.parametrize(
    "layer",
    [
        conv(3, 6, groups=3),
        nn.Conv2d(3, 3, 3, groups=3, bias=False),
        conv(padding_mode="reflect"),
        conv(padding_mode="circular", bias=False),
        nn.Conv2d(3, 4, 1, stride=2, dilation=2),
    ],
    ids=["grouped", "depthwise", "reflect", "circular", "strided"],
)
def test_every_kind_of_convolution_is_silenced_without_a_norm(layer):
    model = Net(lambda net, x: F.relu(net.a(x), inplace=True), a=layer)
    layers = find_layers(model, X)
    assert layers == (Layer("a", None, layer.out_channels),)
    assert_silent(silenced(model, layers, half(layers)), layers, half(layers))


def test_one_and_three_dimensions():
    flat = Net(lambda net, x: net.n(net.a(x.flatten(2))), a=nn.Conv1d(3, 4, 3), n=nn.BatchNorm1d(4))
    deep = Net(lambda net, x: net.a(x.unsqueeze(1)), a=nn.Conv3d(1, 4, 2))
    assert find_layers(flat, X) == (Layer("a", "n", 4),)
    assert find_layers(deep, X) == (Layer("a", None, 4),)
    for model in (flat, deep):
        layers = find_layers(model, X)
        assert_silent(silenced(model, layers, half(layers)), layers, half(layers))
