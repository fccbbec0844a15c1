"""Channels: found by data flow, silent to the last bit, refused by name."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

from unbackdoor.core.errors import ModelError, UnknownNameError
from unbackdoor.core.images import Images
from unbackdoor.core.run import Run
from unbackdoor.network.channels import Mask, feature_maps, silence_, silenced
from unbackdoor.network.layers import Layer, find_layers
from unbackdoor.training.fit import fit

X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Net(nn.Module):
    """Modules by name and a function of (net, x): small nets, written where they are tested."""

    def __init__(self, flow, **modules: nn.Module) -> None:
        super().__init__()
        self.flow = flow
        for name, module in modules.items():
            self.add_module(name, module)
        self.head = nn.LazyLinear(3)
        with torch.no_grad():
            self.eval()(X)
            for module in self.modules():
                if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)):
                    for parameter in module.parameters():
                        parameter.normal_()
                if isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
                    module.running_mean.normal_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.flow(self, x).flatten(1))


def conv(inputs: int = 3, outputs: int = 4, **options) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def pairs(model: nn.Module, x: Tensor = X) -> dict[str, str | None]:
    return {layer.name: layer.norm for layer in find_layers(model, x)}


def half(layers: tuple[Layer, ...]) -> Mask:
    """Every second channel."""
    return {layer.name: torch.arange(layer.channels) % 2 == 0 for layer in layers}


def outputs(model: nn.Module, paths: list[str], x: Tensor = X) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def keep(path: str):
        # A clone: what is summed in place later must not change what was put out.
        return lambda module, args, y: found.update({path: y.detach().clone()})

    handles = [model.get_submodule(path).register_forward_hook(keep(path)) for path in paths]
    model(x)
    for handle in handles:
        handle.remove()
    return found


def assert_silent(
    model: nn.Module, layers: tuple[Layer, ...], mask: Mask, axis: int = 1, x: Tensor = X
) -> None:
    """Each masked channel of the layers and their norms is exactly 0; the others are not all 0."""
    paths = {
        path: layer
        for layer in layers
        for path in (layer.name, layer.norm, *layer.other_norms)
        if path is not None
    }
    for train in (False, True):
        model.train(train)
        for path, y in outputs(model, list(paths), x).items():
            rows = y.movedim(axis, 0)
            assert (rows[mask[paths[path].name]] == 0).all(), (path, train)
            assert (rows[~mask[paths[path].name]] != 0).any(), (path, train)


def residual(in_place: bool) -> Net:
    """A block whose shortcut is registered last, called first and summed in."""

    def flow(net: Net, x: Tensor) -> Tensor:
        x = net.stem(x)
        short = net.short_bn(net.short(x))
        out = net.conv2(F.relu(net.bn1(net.conv1(x))))
        out = net.bn2(out)
        if in_place:
            out += short
        else:
            out = out + short
        return F.relu_(out)

    return Net(
        flow,
        stem=conv(),
        conv1=conv(4),
        bn1=nn.BatchNorm2d(4),
        conv2=conv(4),
        bn2=nn.BatchNorm2d(4),
        short=conv(4),
        short_bn=nn.BatchNorm2d(4),
    )


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


def refused(model: nn.Module, *words: str) -> None:
    with pytest.raises(ModelError) as error:
        find_layers(model, X)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def test_a_convolution_called_twice_is_refused_by_name():
    model = Net(lambda net, x: net.deep(net.deep(net.a(x))), a=conv(), deep=conv(4))
    refused(model, "'deep'", "twice")


@pytest.mark.parametrize("style", ["parametrization", "hook", "pruning"])
def test_weights_made_anew_in_every_pass_are_refused_by_name(style):
    model = Net(lambda net, x: net.odd(net.a(x)), a=conv(), odd=conv(4))
    if style == "parametrization":
        parametrizations.weight_norm(model.odd)
    elif style == "hook":
        with pytest.warns(FutureWarning):
            nn.utils.weight_norm(model.odd)
    else:
        prune.random_unstructured(model.odd, "weight", 0.5)
    refused(model, "'odd'", "parametrized")


def test_shared_weights_are_refused_by_name():
    model = Net(lambda net, x: net.b(net.a(net.stem(x))), stem=conv(), a=conv(4), b=conv(4))
    model.b.weight = model.a.weight
    refused(model, "'a'", "'b'", "share")


@pytest.mark.parametrize("how", ["no_grad", "detach", "reentrant"])
def test_layers_without_a_gradient_are_refused_by_name(how):
    def flow(net, x):
        if how == "no_grad":
            with torch.no_grad():
                return net.b(net.a(x))
        if not x.requires_grad:
            return net.b(net.a(x))
        if how == "detach":
            return net.b(net.a(x).detach())
        return checkpoint(lambda x: net.b(net.a(x)), x, use_reentrant=True)

    model = Net(flow, a=conv(), b=conv(4))
    refused(model, "'b'" if how == "detach" else "'a'", "no_grad or detach")


def test_checkpointed_activations_work():
    model = Net(
        lambda net, x: checkpoint(lambda x: net.n(net.a(x)), x, use_reentrant=False),
        a=conv(),
        n=nn.BatchNorm2d(4),
    )
    assert pairs(model) == {"a": "n"}


def test_nothing_to_work_on_is_refused():
    refused(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), "Sequential", "no convolution")
    unused = Net(lambda net, x: F.conv2d(x, net.a.weight), a=conv())
    refused(unused, "Net", "calls no convolution")


def test_scripted_and_compiled_models_are_refused():
    plain = nn.Sequential(conv(), nn.Flatten(), nn.Linear(256, 3))
    torch_compiled = torch.compile(copy.deepcopy(plain))
    refused(torch_compiled, "compiled")
    in_place = copy.deepcopy(plain)
    in_place.compile()
    refused(in_place, "compiled")
    with pytest.warns(FutureWarning):
        scripted = torch.jit.script(plain)
    refused(scripted, "scripted")


def test_calls_by_keyword_and_a_change_of_the_input_in_place():
    def flow(net, x):
        x.sub_(0.5)
        return net.n(input=net.a(input=x))

    model = Net(flow, a=conv(), n=nn.BatchNorm2d(4))
    before = X.clone()
    assert pairs(model) == {"a": "n"}
    assert torch.equal(X, before)


def test_a_convolution_that_makes_the_logits_is_no_layer():
    model = nn.Sequential(
        conv(), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.ReLU(True), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    assert pairs(model) == {"0": None}


def test_the_model_is_left_as_it_was():
    model = residual(in_place=True)
    model.stem.weight.requires_grad_(False)
    model.train()
    model.bn1.eval()
    seen = []
    handle = model.conv1.register_forward_hook(lambda module, args, y: seen.append(y.shape))
    state = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    wants = [parameter.requires_grad for parameter in model.parameters()]
    layers = find_layers(model, X)
    with feature_maps(model, layers):
        model.eval()(X)
    for module, was in zip(model.modules(), modes, strict=True):
        module.training = was
    quiet = silenced(model, layers, half(layers))
    assert quiet is not model
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert [module.training for module in quiet.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == wants
    assert all(parameter.grad is None for parameter in model.parameters())
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert sum(hooks) == 1 and len(model.conv1._forward_hooks) == 1 and len(seen) == 2
    handle.remove()


def test_modes_hooks_and_wants_come_back_after_an_error():
    def broken(net, x):
        net.a(x)
        if net.ready:
            raise RuntimeError("broken model")
        return x

    Net.ready = False
    model = Net(broken, a=conv())
    Net.ready = True
    model.train()
    with pytest.raises(RuntimeError, match="broken model"):
        find_layers(model, X)
    assert model.a.training and model.a.weight.requires_grad
    assert not model.a._forward_hooks and not model.a._forward_pre_hooks
    del Net.ready


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_what_is_found_does_not_hang_on_modes(frozen, grad, train):
    model = residual(in_place=True).requires_grad_(not frozen).train(train)
    with torch.set_grad_enabled(grad):
        assert pairs(model)["short"] == "short_bn"


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


def mlp(act: nn.Module) -> Net:
    """One block of a transformer's kind on 16 tokens: projection, then 5 hidden units."""

    def flow(net, x):
        x = net.patch(x).flatten(2).transpose(1, 2)
        return x + net.down(net.act(net.up(net.ln(x))))

    return Net(
        flow,
        patch=nn.Conv2d(3, 4, 2, 2),
        ln=nn.LayerNorm(4),
        up=nn.Linear(4, 5),
        act=act,
        down=nn.Linear(5, 4),
    )


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
