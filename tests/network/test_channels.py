"""Feature maps, and channels that are silenced and stay silent."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from network.nets import Net, X, conv, half, mlp, outputs, pairs, residual
from unbackdoor.core.errors import ModelError, UnknownNameError
from unbackdoor.core.images import Images
from unbackdoor.core.run import Run
from unbackdoor.network.channels import feature_maps, silence_, silenced
from unbackdoor.network.layers import Layer, find_layers
from unbackdoor.training.fit import fit


def test_feature_maps_are_the_outputs_before_a_sum_in_place():
    def flow(net, x):
        out = net.a(x)
        out += 1000
        return F.relu_(net.b(out))

    model = Net(flow, a=conv(), b=conv(4))
    layers = find_layers(model, X)
    with feature_maps(model, layers) as maps:
        model(X)
    assert torch.equal(maps["a"], model.a(X))
    assert torch.equal(maps["b"], model.b(model.a(X) + 1000))
    assert not model.a._forward_hooks


@pytest.mark.parametrize(
    "act",
    [nn.GELU(), nn.GELU("tanh"), nn.ReLU(inplace=True), nn.SiLU(), nn.Hardswish(), nn.PReLU(),
     nn.Sequential(nn.GELU(), nn.Dropout(0.5))],
    ids=str,
)  # fmt: skip
def test_hidden_units_of_an_mlp_block_are_channels(act):
    model = mlp(act)
    layers = find_layers(model, X)
    assert [(layer.name, layer.channels) for layer in layers] == [("patch", 4), ("up", 5)]
    mask = {"up": torch.tensor([True, False, False, True, False])}
    quiet = silenced(model, layers, mask)
    for train in (False, True):
        y = outputs(quiet.train(train), ["up"])["up"]
        assert (y[..., [0, 3]] == 0).all() and (y[..., [1, 2, 4]] != 0).any()
    with feature_maps(model, layers) as maps:
        model(X)
    assert maps["up"].shape == (2, 5, 16)  # channels in dimension 1, tokens behind


def test_linear_layers_that_are_no_mlp_block_are_no_layers():
    """No activation between (a projection), another operation between, one vector per image."""

    def flow(net, x):
        x = net.patch(x).flatten(2).transpose(1, 2)
        x = net.q2(net.q1(x))
        x = net.v2(net.v1(x).softmax(-1))
        return net.h2(F.relu(net.h1(x.mean(1))))

    linear = {name: nn.Linear(4, 4) for name in ("q1", "q2", "v1", "v2", "h1", "h2")}
    assert pairs(Net(flow, patch=nn.Conv2d(3, 4, 2, 2), **linear)) == {"patch": None}


@pytest.mark.parametrize("make", [lambda: residual(in_place=True), lambda: mlp(nn.GELU())])
def test_silence_lasts_through_training_when_held(make):
    model = make()
    layers = find_layers(model, X)
    mask = half(layers)
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (8, 3, 8, 8), generator=rng, dtype=torch.uint8)
    images = Images(pixels, torch.arange(8) % 3, ("a", "b", "c"))
    run = Run(precision="fp32")

    free = silenced(model, layers, mask)
    fit(free, images, run, epochs=2, lr=0.1, batch=4)
    held = silenced(model, layers, mask)
    fit(
        held, images, run, epochs=2, lr=0.1, batch=4, after_step=lambda m: silence_(m, layers, mask)
    )
    for layer in layers:
        silent = mask[layer.name]
        assert (held.get_submodule(layer.name).weight[silent] == 0).all()
        assert (held.get_submodule(layer.name).bias[silent] == 0).all()
        assert (held.get_submodule(layer.name).weight[~silent] != 0).any()
    y, z = outputs(held, [layers[0].name]), outputs(free, [layers[0].name])
    assert (y[layers[0].name][:, ::2] == 0).all()
    assert (z[layers[0].name][:, ::2] != 0).any()  # without holding they grow back


def test_nothing_silenced_changes_no_bit():
    model = residual(in_place=True)
    layers = find_layers(model, X)
    none = {layer.name: torch.zeros(layer.channels, dtype=torch.bool) for layer in layers}
    assert torch.equal(silenced(model, layers, none)(X), model(X))
    assert torch.equal(silenced(model, layers, {})(X), model(X))


def test_a_mask_that_fits_no_layer_is_an_error():
    model = residual(in_place=False)
    layers = find_layers(model, X)
    with pytest.raises(UnknownNameError, match="'conv3'; did you mean 'conv"):
        silence_(model, layers, {"conv3": torch.zeros(4, dtype=torch.bool)})
    with pytest.raises(ModelError, match="'conv1' has 4 channels; its mask is"):
        silence_(model, layers, {"conv1": torch.zeros(5, dtype=torch.bool)})


def test_a_model_that_is_itself_a_convolution_is_silenced():
    quiet = silenced(nn.Conv2d(3, 4, 1), (Layer("", None, 4),), {"": torch.arange(4) == 0})
    assert (quiet(X)[:, 0] == 0).all() and (quiet(X)[:, 1:] != 0).any()
