"""The networks of this field's releases: by their makers' names, doing what their papers say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unbackdoor import models
from unbackdoor.checkpoints import checkpoint
from unbackdoor.core.errors import ParameterError, UnbackdoorWarning
from unbackdoor.core.spec import Spec
from unbackdoor.data import open_images

pytestmark = pytest.mark.filterwarnings("ignore::unbackdoor.core.errors.UnbackdoorWarning")
REAL = Path(__file__).parents[3] / "shared" / "zoo-real"

SMALL = {
    "badnet_cnn": {"width": 2, "hidden": 5, "in_channels": 1, "side": 28},
    "cifar_resnet": {"depth": 14, "width": 4, "in_channels": 3, "projection": True},
    "cifar_vgg": {"depth": 13, "width": 2, "in_channels": 3},
    "preact_resnet18": {"width": 2, "in_channels": 3},
    "simple_cnn": {"width": 2, "in_channels": 1, "hidden": 5},
    "small_vgg": {"width": 2, "in_channels": 3, "side": 24},
    "wide_resnet": {
        **{"depth": 10, "widen": 1, "in_channels": 3},
        **{"bias": True, "raw_shortcut": True},
    },
}


def test_every_network_of_ours_is_here():
    assert set(SMALL) == set(models.own())


@pytest.mark.parametrize("arch", SMALL)
def test_weights_tell_their_options(arch):
    options = SMALL[arch]
    net = models.bare(arch, 7, options).eval()
    assert models.infer(arch, net.state_dict()) == options
    side = options.get("side", 32)
    with torch.no_grad():
        found = net(torch.rand(2, options["in_channels"], side, side))
    assert found.shape == (2, 7) and (found < 0).any()  # logits, no probabilities


@pytest.mark.parametrize(
    ("arch", "options", "told"),
    [
        ("cifar_resnet", {"depth": 18}, "6 n \\+ 2"),
        ("wide_resnet", {"depth": 18}, "6 n \\+ 4"),
        ("wide_resnet", {"widen": 0}, "widen"),
        ("small_vgg", {"side": 30}, "multiple of 8"),
        ("badnet_cnn", {"side": 12}, "from 16"),
        ("cifar_vgg", {"depth": 12}, "11, 13, 16, 19"),
        ("simple_cnn", {"hidden": True}, "hidden"),
    ],
)
def test_options_that_are_none(arch, options, told):
    with pytest.raises(ParameterError, match=told):
        models.create(Spec(arch, ("a",), (0.0,) * 3, (1.0,) * 3, options))


def test_a_shortcut_without_weights_takes_every_second_pixel_and_adds_zero_channels():
    block = models._module("cifar_resnet").Block(2, 4, 2, projection=False).eval()
    for convolution in (block.conv1, block.conv2):
        nn.init.zeros_(convolution.weight)
    x = torch.rand(1, 2, 4, 4)
    out = block(x)
    assert torch.equal(out[:, 1:3], x[:, :, ::2, ::2])
    assert not out[:, [0, 3]].any()


@pytest.mark.parametrize("raw", [False, True])
def test_a_wide_shortcut_takes_the_activated_input_or_the_raw_one(raw):
    block = models._module("wide_resnet").Block(2, 3, 1, bias=False, raw=raw).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(1, 2, 4, 4)
    taken = x if raw else F.relu(block.bn1(x))
    assert torch.equal(block(x), block.convShortcut(taken))


def test_the_other_names_of_the_same_parts(tmp_path):
    """`downsample` and `fc` of a ResNet, and the stages `layer1` to `layer3` of a wide one."""
    for arch, options, theirs in (
        ("cifar_resnet", {"depth": 8, "width": 4, "projection": True}, _resnet_names),
        ("wide_resnet", {"depth": 10, "widen": 1, "bias": True, "raw_shortcut": True}, _wide_names),
    ):
        spec = Spec(arch, ("a", "b"), (0.0,) * 3, (1.0,) * 3, options)
        net = models.create(spec, torch.Generator().manual_seed(0)).eval()
        state = {theirs(name): value for name, value in net.net.state_dict().items()}
        assert state.keys() != net.net.state_dict().keys()
        torch.save({"state_dict": state}, tmp_path / "a.pt")
        with pytest.warns(UnbackdoorWarning, match=f"are those of {arch}"):
            found = checkpoint.load(tmp_path / "a.pt", mean=[0.0] * 3, std=[1.0] * 3)
        x = torch.rand(2, 3, 32, 32)
        assert torch.equal(found(x), net(x))


def _resnet_names(name):
    return name.replace("shortcut", "downsample").replace("linear", "fc")


def _wide_names(name):
    for stage in "123":
        name = name.replace(f"block{stage}.layer.", f"layer{stage}.")
    return name.replace("convShortcut", "shortcut.0").replace("fc.", "linear.")


def test_torchvisions_resnet_by_the_names_of_cifar_code(tmp_path):
    net = models.create(Spec("resnet18", ("a", "b"), (0.0,) * 3, (1.0,) * 3, {"cifar_stem": True}))
    state = {
        "module." + name.replace("downsample", "shortcut").replace("fc.", "linear."): value
        for name, value in net.net.state_dict().items()
    }
    torch.save({"net": state, "acc": 95.0}, tmp_path / "ckpt.pth")
    for arch in ("resnet18", None):
        found = checkpoint.load(tmp_path / "ckpt.pth", arch=arch, mean=[0.0] * 3, std=[1.0] * 3)
        assert found.spec.options == {"cifar_stem": True} and len(found.spec.classes) == 2
        x = torch.rand(1, 3, 32, 32)
        with torch.no_grad():
            assert torch.equal(found(x), net.eval()(x))


@pytest.mark.parametrize(
    ("file", "arch", "classes"),
    [
        ("badnet-cifar10-square/badnet-CIFAR10.pth", "badnet_cnn", 10),
        ("simplecnn-cifar10-checker/backdoor_model.pth", "simple_cnn", 10),
        ("smallvgg-cifar10-l2/l2_inv_0_02_ckpt.pth", "small_vgg", 10),
        ("smallvgg-gtsrb-watermark/gtsrbtrojan_wm_2_02_ckpt.pth", "small_vgg", 43),
        ("wrn16-cifar10-grid/WRN-16-1-S-model_best.pth.tar", "wide_resnet", 10),
        ("resnet20-cifar10-clean/resnet20-12fca82f.th", "cifar_resnet", 10),
    ],
)
@pytest.mark.skipif(not REAL.is_dir(), reason="needs the published models")
def test_a_published_model_tells_its_architecture(file, arch, classes, tmp_path):
    copy = tmp_path / "model.pth"
    copy.write_bytes((REAL / file).read_bytes())
    with pytest.warns(UnbackdoorWarning, match=f"those of {arch}"):
        found = checkpoint.load(copy)
    assert found.spec.arch == arch and len(found.spec.classes) == classes


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the published models")
def test_a_published_victim_does_here_what_it_does_at_its_makers(tmp_path):
    """Nearly every stamped image goes to the target that its makers state."""
    for folder, file, target in (
        ("smallvgg-cifar10-l2", "l2_inv_0_02_ckpt.pth", 0),
        ("wrn16-cifar10-grid", "WRN-16-1-S-model_best.pth.tar", 5),
    ):
        copy = tmp_path / "model.pth"
        copy.write_bytes((REAL / folder / file).read_bytes())
        stamped = open_images(REAL / folder / "triggered_test.parquet")[:100]
        with torch.no_grad(), pytest.warns(UnbackdoorWarning):
            outputs = checkpoint.load(copy)(stamped.pixels.float() / 255)
        assert (outputs.argmax(1) == target).float().mean() >= 0.97
