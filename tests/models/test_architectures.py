"""Real architectures with random weights: what is silenced is 0, what is not changes no bit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torchvision.models as zoo
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.efficientnet import EfficientNet, MBConvConfig

from unbackdoor.core.images import Images
from unbackdoor.core.run import Run
from unbackdoor.defenses.fmp import FMP
from unbackdoor.models import preact_resnet18
from unbackdoor.network.channels import feature_maps, silenced
from unbackdoor.network.layers import Layer, find_layers
from unbackdoor.network.lean import lean
from unbackdoor.ranking.reverse import Nudge, Reversal

CLASSES = 10


def hub(name: str) -> nn.Module:
    return pytest.importorskip("timm").create_model(name, num_classes=CLASSES)


FULL: dict[str, tuple[int, Callable[..., nn.Module]]] = {
    "resnet18": (32, zoo.resnet18),
    "resnet50": (32, zoo.resnet50),
    "vgg11": (32, partial(zoo.vgg11, init_weights=False)),
    "vgg19_bn": (32, partial(zoo.vgg19_bn, init_weights=False)),
    "densenet121": (32, zoo.densenet121),
    "mobilenet_v3_large": (64, zoo.mobilenet_v3_large),
    "efficientnet_b0": (64, zoo.efficientnet_b0),
    "googlenet": (64, partial(zoo.googlenet, init_weights=False, aux_logits=False)),
    "squeezenet1_1": (64, zoo.squeezenet1_1),
    "shufflenet_v2_x0_5": (64, zoo.shufflenet_v2_x0_5),
    "regnet_y_400mf": (64, zoo.regnet_y_400mf),
    "convnext_tiny": (64, zoo.convnext_tiny),
    "vit_b_16": (64, partial(zoo.vit_b_16, image_size=64)),
    "swin_t": (64, zoo.swin_t),
    "timm:test_byobnet": (64, lambda num_classes: hub("test_byobnet")),
}
"""Name -> the side of its images, and what makes it; each layer and class of the original."""

# (layers, channels) of each, counted by hand from the papers' tables where these give them.
EXPECTED = {
    "resnet18": (20, 4800),
    "resnet50": (53, 26560),
    "vgg11": (8, 2752),
    "vgg19_bn": (16, 5504),
    "densenet121": (120, 10240),
    "squeezenet1_1": (25, 2944),
    "convnext_tiny": (40, 34560),
    "vit_b_16": (1 + 12, 768 + 12 * 3072),
    "swin_t": (1 + 12, 96 + 4 * (2 * 96 + 2 * 192 + 6 * 384 + 2 * 768)),
}


def vit(num_classes: int) -> nn.Module:
    return zoo.VisionTransformer(
        image_size=32,
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=32,
        num_classes=num_classes,
    )


def swin(num_classes: int) -> nn.Module:
    return zoo.SwinTransformer(
        patch_size=[4, 4],
        embed_dim=8,
        depths=[2, 2],
        num_heads=[1, 2],
        window_size=[4, 4],
        num_classes=num_classes,
    )


def convnext(num_classes: int) -> nn.Module:
    stages = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)]
    return ConvNeXt(stages, num_classes=num_classes)


def densenet(num_classes: int) -> nn.Module:
    return zoo.DenseNet(4, (2, 2), num_init_features=8, num_classes=num_classes)


def efficientnet(num_classes: int) -> nn.Module:
    stages = [MBConvConfig(1, 3, 1, 8, 8, 1), MBConvConfig(4, 3, 2, 8, 16, 1)]
    return EfficientNet(stages, dropout=0.2, last_channel=32, num_classes=num_classes)


NARROW: dict[str, Callable[..., nn.Module]] = {
    "preact_resnet18": lambda num_classes: preact_resnet18.build(num_classes, width=4),
    "densenet": densenet,
    "efficientnet": efficientnet,
    "mobilenet_v3_small": partial(zoo.mobilenet_v3_small, width_mult=0.1),
    "shufflenet_v2": lambda num_classes: zoo.ShuffleNetV2(
        [1, 1, 1], [4, 8, 16, 16, 32], num_classes
    ),
    "convnext": convnext,
    "vit": vit,
    "swin": swin,
}


def built(make: Callable[..., nn.Module], seed: int = 0) -> nn.Module:
    """The network with random weights; its norms' tensors are random too, so that zeros show."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make(num_classes=CLASSES)
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.ndim == 1 and tensor.is_floating_point():  # biases, and all that norms hold
                tensor.data.add_(torch.rand_like(tensor), alpha=0.1)
    return model.eval()


def noise(side: int) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def images(n: int, side: int) -> Images:
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 3, side, side), generator=rng, dtype=torch.uint8)
    return Images(pixels, torch.arange(n) % CLASSES, tuple(map(str, range(CLASSES))))


@pytest.fixture(scope="module", params=list(FULL))
def architecture(request):
    """(name, model, two images); each network is built once."""
    side, make = FULL[request.param]
    return request.param, built(make), noise(side)


def watch(model: nn.Module, layers: tuple[Layer, ...], spots: dict) -> list[str]:
    """The paths whose masked channels put out anything but 0: filled by later passes."""
    loud: list[str] = []

    def check(path: str, silent: Tensor, axis: int, module: nn.Module, args, y: Tensor) -> None:
        if y.movedim(axis, 0)[silent].count_nonzero():
            loud.append(path)

    for layer in layers:
        last = isinstance(model.get_submodule(layer.name), nn.Linear)
        for path in (layer.name, layer.norm, *layer.other_norms):
            if path is not None:
                module = model.get_submodule(path)
                axis = -1 if last or type(module) is nn.LayerNorm else 1
                module.register_forward_hook(partial(check, path, spots[layer.name], axis))
    return loud


def test_silenced_channels_put_out_zero_and_nothing_silenced_changes_no_bit(architecture):
    name, model, x = architecture
    layers = find_layers(model, x)
    assert len({layer.name for layer in layers}) == len(layers)
    if name in EXPECTED:
        assert (len(layers), sum(layer.channels for layer in layers)) == EXPECTED[name]

    rng = torch.Generator().manual_seed(0)
    mask = {layer.name: torch.rand(layer.channels, generator=rng) < 0.3 for layer in layers}
    none = {name: torch.zeros_like(silent) for name, silent in mask.items()}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        expected = model(x)
        quiet = silenced(model, layers, none)
        assert torch.equal(quiet(x), expected)
        del quiet
        quiet = silenced(model, layers, mask)
        loud = watch(quiet, layers, mask)
        quiet.train(False)(x)
        quiet.train(True)(x)
        assert loud == []
        assert torch.equal(model(x), expected)


def test_the_check_sees_a_channel_that_speaks():
    """A silenced model with one bias set again is caught, so the test above can fail."""
    model = built(zoo.squeezenet1_1)
    x = noise(32)
    layers = find_layers(model, x)
    mask = {layer.name: torch.arange(layer.channels) == 1 for layer in layers}
    quiet = silenced(model, layers, mask)
    quiet.get_submodule("features.3.squeeze").bias.data[1] = 1.0
    loud = watch(quiet, layers, mask)
    quiet(x)
    assert loud == ["features.3.squeeze"]


def rank(model: nn.Module, side: int) -> None:
    repair = FMP(epochs=0, ranking_images=4, p=4).repair(
        model, images(4, side), Run(precision="fp32")
    )
    layers = find_layers(model, noise(side))
    assert list(repair.scores) == [layer.name for layer in layers]
    for layer in layers:
        assert repair.scores[layer.name].shape == (layer.channels,)
        assert int(repair.silenced[layer.name].sum()) == layer.channels // 4
    loud = watch(repair.model, layers, repair.silenced)
    repair.model(noise(side))
    assert loud == []


@pytest.mark.filterwarnings("ignore:fmp prunes nothing")
@pytest.mark.parametrize("name", NARROW)
def test_fmp_ranks_every_channel_of_a_narrow_one(name):
    rank(built(NARROW[name]), 32)


@pytest.mark.slow
def test_fmp_ranks_every_channel_of_a_full_one(architecture):
    name, model, _ = architecture
    rank(model, FULL[name][0])


def test_mlp_blocks_of_transformers_are_layers_and_attention_is_not():
    names = [layer.name for layer in find_layers(built(vit), noise(32))]
    blocks = [f"encoder.layers.encoder_layer_{i}.mlp.0" for i in range(2)]
    assert names == ["conv_proj", *blocks]

    names = [layer.name for layer in find_layers(built(swin), noise(32))]
    blocks = [f"features.{stage}.{i}.mlp.0" for stage in (1, 3) for i in range(2)]
    assert names == ["features.0.0", *blocks]


def test_convnext_pairs_the_depthwise_convolution_with_its_layer_norm():
    layers = {layer.name: layer for layer in find_layers(built(convnext), noise(32))}
    assert layers["features.1.0.block.0"] == Layer(
        "features.1.0.block.0", "features.1.0.block.2", 8
    )
    assert layers["features.1.0.block.3"] == Layer("features.1.0.block.3", None, 32)
    assert "features.1.0.block.5" not in layers  # the way back from the hidden units
    assert layers["features.0.0"].norm == "features.0.1"  # channels first inside a LayerNorm


def test_silencing_a_hidden_unit_takes_exactly_its_share_from_the_block():
    """By hand: block(x) - quiet block(x) = GELU(up(x)_k) * down.weight[:, k]."""
    model = built(vit)
    x = noise(32)
    layers = find_layers(model, x)
    path = "encoder.layers.encoder_layer_0.mlp"
    mask = {f"{path}.0": torch.arange(32) == 7}
    block, quiet = model.get_submodule(path), silenced(model, layers, mask).get_submodule(path)
    tokens = torch.randn(2, 17, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        share = nn.functional.gelu(block[0](tokens)[..., 7:8]) * block[3].weight[:, 7]
        torch.testing.assert_close(block(tokens) - quiet(tokens), share)


@pytest.mark.parametrize("name", NARROW)
def test_the_images_made_are_those_of_the_plain_procedure(name):
    """One channel at a time, autograd from its map to the image: the same steps."""
    model, x, run = built(NARROW[name]).requires_grad_(False), noise(32), Run(precision="fp32")
    rng = torch.Generator().manual_seed(3)
    signs = torch.randint(0, 2, x.shape, generator=rng).float() * 2 - 1
    nudge = Nudge(eps=0.06, alpha=0.02, steps=1)
    for layer in find_layers(model, x)[::3]:
        channels = torch.tensor([0, layer.channels - 1])
        reversal = Reversal(model, lean(model, x, run), layer, x, signs, nudge, run)
        made = reversal.images(channels).detach()
        for images_of_channel, channel in zip(made, channels, strict=True):
            start = (x + 0.02 * signs).clamp(0, 1).requires_grad_()
            with feature_maps(model, [layer]) as maps:
                model(x)
                calm = maps[layer.name][:, channel]
                model(start)
                distance = (maps[layer.name][:, channel] - calm).square().sum()
            (gradient,) = torch.autograd.grad(distance, start)
            near = (start + 0.06 * gradient.sign()).clamp(x - 0.06, x + 0.06)
            plain = near.clamp(0, 1).detach()
            # The sign of a gradient that is nearly 0 hangs on rounding.
            sure = gradient.abs() > 1e-4 * gradient.abs().max()
            wrong = (images_of_channel - plain).abs() > 1e-6
            assert wrong[sure].sum() <= 0.001 * sure.sum()
