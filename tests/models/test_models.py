import sys

import pytest
import torch

from unbackdoor import models
from unbackdoor.core.errors import ModelError, ParameterError, UnknownNameError

TINY = {"width": 2}


def spec(arch, classes=3, **options):
    names = tuple(map(str, range(classes)))
    return models.Spec(arch, names, (0.0,) * 3, (1.0,) * 3, options)


def run(model, side=32):
    with torch.no_grad():
        return model.eval()(torch.zeros(1, 3, side, side)).shape


def test_files_with_an_underscore_are_no_architectures():
    assert "preact_resnet18" in models.own()
    assert not [name for name in models.own() if name.startswith("_")]


def test_normalisation_is_a_layer():
    one = models.create(models.Spec("preact_resnet18", ("a",), (0.5,) * 3, (0.25,) * 3, TINY))
    one.eval()
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(one(x), one.net((x - 0.5) / 0.25))


def test_the_same_generator_gives_the_same_weights_and_global_state_stays():
    before = torch.random.get_rng_state()
    first, second, other = (
        models.create(spec("preact_resnet18", **TINY), torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(first.net.conv1.weight, second.net.conv1.weight)
    assert not torch.equal(first.net.conv1.weight, other.net.conv1.weight)
    assert torch.equal(before, torch.random.get_rng_state())


def test_torchvision_with_a_stem_for_small_images():
    with torch.device("meta"):
        plain = models.create(spec("resnet18"))
        small = models.create(spec("resnet18", cifar_stem=True))
    with torch.no_grad():
        x = torch.zeros(1, 3, 32, 32, device="meta")
        assert small.eval()(x).shape == (1, 3)
        assert small.net.maxpool(small.net.conv1(x)).shape[-1] == 32
        assert plain.net.maxpool(plain.net.conv1(x)).shape[-1] == 8
    with pytest.raises(ParameterError, match="not squeezenet1_1"):
        models.create(spec("squeezenet1_1", cifar_stem=True))


def test_googlenet_has_one_output_in_training_too():
    model = models.create(spec("googlenet")).train()
    assert model(torch.rand(2, 3, 64, 64)).shape == (2, 3)


def test_timm():
    pytest.importorskip("timm")
    model = models.create(spec("timm:test_resnet", in_chans=1))
    assert model.channels == 1


def test_timm_absent_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ParameterError, match=r"unbackdoor\[hub\]"):
        models.create(spec("timm:resnet18"))


@pytest.mark.parametrize("option", ["pretrained", "pretrained_cfg", "checkpoint_path"])
def test_timm_fetches_nothing(option):
    pytest.importorskip("timm")
    with pytest.raises((ParameterError, UnknownNameError)):
        models.create(spec("timm:test_resnet", **{option: "x"}))


@pytest.mark.parametrize("arch", ["timm:hf-hub:a/b", "timm:local-dir:/x", "timm:a/b"])
def test_hub_names_are_unknown(arch):
    pytest.importorskip("timm")
    with pytest.raises(UnknownNameError):
        models.create(spec(arch))


def test_code_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\n"
        "def make(classes, hidden=4):\n"
        "    layers = nn.Linear(12, hidden), nn.Linear(hidden, classes)\n"
        "    return nn.Sequential(nn.Flatten(), *layers)\n"
        "def nothing(classes):\n"
        "    return 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = models.create(spec("my_nets:make", hidden=5))
    assert model.net[1].out_features == 5 and run(model, 2) == (1, 3)
    with pytest.raises(UnknownNameError, match="did you mean 'hidden'"):
        models.create(spec("my_nets:make", hiden=5))
    with pytest.raises(ModelError, match="gives a int"):
        models.create(spec("my_nets:nothing"))
    for missing in ("my_nets:other", "no_nets:make", ":make"):
        with pytest.raises(UnknownNameError):
            models.create(spec(missing))


@pytest.mark.parametrize(
    ("arch", "options", "nearest"),
    [
        ("preact_resnet81", {}, "preact_resnet18"),
        ("preact_resnet18", {"widht": 2}, "width"),
        ("resnet18", {"cifar_stm": True}, "cifar_stem"),
        ("resnet18", {"weights": "DEFAULT"}, "known"),
    ],
)
def test_unknown_names_come_with_the_nearest(arch, options, nearest):
    with pytest.raises(UnknownNameError, match=nearest):
        models.create(spec(arch, **options))


@pytest.mark.parametrize("width", [0, -1, "a", 2.5])
def test_a_width_that_is_none(width):
    with pytest.raises(ParameterError, match="width"):
        models.create(spec("preact_resnet18", width=width))
