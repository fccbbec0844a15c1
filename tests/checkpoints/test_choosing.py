"""The architecture of weights that do not say it, and the size of a network's images."""

from __future__ import annotations

import pytest
import torch

from unbackdoor import models
from unbackdoor.checkpoints import checkpoint
from unbackdoor.core.errors import CheckpointError, ParameterError, UnbackdoorWarning
from unbackdoor.models import _recognize

pytestmark = pytest.mark.filterwarnings("ignore::unbackdoor.core.errors.UnbackdoorWarning")
SCALE = {"mean": [0.5] * 3, "std": [0.5] * 3}


def empty(arch, classes=7, **options):
    """The names and shapes of a network, without its numbers."""
    with torch.device("meta"):
        return models.bare(arch, classes, options).state_dict()


@pytest.mark.parametrize(
    "arch", ["resnet50", "vgg11_bn", "densenet121", "vit_b_32", "convnext_base"]
)
def test_names_and_shapes_tell_a_network_of_torchvision_and_its_classes(arch):
    assert models.recognize(empty(arch)) == (models.Fit(arch, {}, 7),)


@pytest.mark.parametrize("arch", ["resnet34", "densenet169"])
def test_the_first_kernel_tells_the_stem(arch):
    assert models.recognize(empty(arch, cifar_stem=True)) == (
        models.Fit(arch, {"cifar_stem": True}, 7),
    )


def test_one_other_shape_or_name_is_another_network():
    state = empty("resnet18")
    for changed in (
        {"layer3.0.conv1.weight": torch.empty(256, 128, 1, 1, device="meta")},
        {"layer3.0.more.weight": torch.empty(3)},
        {"bn1.bias": None},
    ):
        other = {k: v for k, v in {**state, **changed}.items() if v is not None}
        assert models.recognize(other) == ()


def test_networks_that_cannot_be_built_without_memory_are_known_too():
    assert [fit.arch for fit in models.recognize(empty_regnet())] == ["regnet_y_400mf"]


def empty_regnet():
    return models.bare("regnet_y_400mf", 7, {}).state_dict()


def test_a_bare_file_is_opened_by_the_one_network_that_fits(tmp_path):
    net = models.bare("squeezenet1_1", 4, {}).eval()
    state = {f"module.{name}": value for name, value in net.state_dict().items()}
    torch.save(state, tmp_path / "a.pt")
    with pytest.warns(UnbackdoorWarning) as told:
        found = checkpoint.load(tmp_path / "a.pt", **SCALE)
    lines = " ".join(str(warning.message) for warning in told)
    assert "those of squeezenet1_1" in lines and "there are 4, and their names are unknown" in lines
    assert found.spec.classes == ("0", "1", "2", "3")
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(found(x), net((x - 0.5) / 0.5))


def test_where_none_fits_the_way_on_is_said(tmp_path):
    torch.save({"a.weight": torch.zeros(3, 3)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"inspect.*--arch mynet\.py:Net"):
        checkpoint.load(tmp_path / "a.pt", **SCALE)


def fits_of_timm(monkeypatch, names):
    timm = pytest.importorskip("timm")
    monkeypatch.setattr(timm, "list_models", lambda: names)


def test_networks_of_timm_that_compute_the_same_are_one(tmp_path, monkeypatch):
    names = ["deit_tiny_patch16_224", "vit_tiny_patch16_224", "vit_small_patch16_224"]
    fits_of_timm(monkeypatch, names)
    net = models.bare("timm:vit_tiny_patch16_224", 5, {})
    torch.save(net.state_dict(), tmp_path / "a.pt")
    with pytest.warns(UnbackdoorWarning, match="timm:deit_tiny_patch16_224 would compute the same"):
        found = checkpoint.load(tmp_path / "a.pt", **SCALE)
    assert found.spec.arch == "timm:vit_tiny_patch16_224" and len(found.spec.classes) == 5
    assert found.spec.size == (224, 224)  # this network takes no other
    assert checkpoint.load(tmp_path / "a.pt", size=(32, 32), **SCALE).spec.size == (32, 32)


def test_networks_of_timm_that_differ_are_named_and_none_is_taken(tmp_path, monkeypatch):
    names = ["efficientnet_lite0", "tf_efficientnet_lite0"]
    fits_of_timm(monkeypatch, names)
    torch.save(models.bare("timm:efficientnet_lite0", 5, {}).state_dict(), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"lite0 and timm:tf_efficientnet_lite0 .* different"):
        checkpoint.load(tmp_path / "a.pt", **SCALE)
    found = checkpoint.load(tmp_path / "a.pt", arch="timm:efficientnet_lite0", **SCALE)
    assert len(found.spec.classes) == 5 and found.spec.size is None


def test_the_size_that_weights_of_timm_were_trained_at():
    timm = pytest.importorskip("timm")
    assert models.usual_size(timm.create_model("test_resnet", num_classes=1000)) == (160, 160)
    assert models.usual_size(timm.create_model("test_resnet", num_classes=3)) is None


@pytest.mark.parametrize(("arch", "part"), [("googlenet", "aux1"), ("inception_v3", "AuxLogits")])
def test_auxiliary_heads_are_left_out_and_that_is_said(arch, part, tmp_path):
    whole = models.bare(arch, 3, {"aux_logits": True})
    torch.save(whole.state_dict(), tmp_path / "a.pt")
    with pytest.warns(UnbackdoorWarning, match=f"left out.*{part}"):
        found = checkpoint.load(tmp_path / "a.pt", arch=arch, **SCALE)
    assert not any(name.startswith(part) for name in found.net.state_dict())
    kept = checkpoint.load(tmp_path / "a.pt", arch=arch, options={"aux_logits": True}, **SCALE)
    assert kept.net.state_dict().keys() == whole.state_dict().keys()
    if arch == "googlenet":
        assert kept.train()(torch.rand(2, 3, 64, 64)).shape == (2, 3)  # the main output


def test_the_size_of_a_network_wins_and_a_size_that_is_none_is_refused(tmp_path):
    net = models.bare("small_vgg", 3, {"width": 2, "side": 24})
    torch.save(net.state_dict(), tmp_path / "a.pt")
    assert checkpoint.load(tmp_path / "a.pt", **SCALE).spec.size == (24, 24)
    with pytest.raises(ParameterError, match="size must be"):
        checkpoint.load(tmp_path / "a.pt", size=(0, 5), **SCALE)


def test_building_ends_early_where_shapes_differ():
    """A network of other shapes is given up after a few of its parameters."""
    made = []

    class Many(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for _ in range(100):
                made.append(torch.nn.Linear(5, 6))

    with pytest.raises(_recognize._OtherShapeError), _recognize._only({"a": (1, 2)}):
        Many()
    assert len(made) < 10


@pytest.mark.parametrize("name", ["weight", "a.weight", ".", "", "a."])
def test_counting_classes_comes_to_an_end_whatever_the_names_are(name):
    assert models.count_classes("simple_cnn", {}, {name: torch.zeros(3, 2)}) is None
