"""What a header may ask for, and what is refused."""

import pytest
import torch

from checkpoints.samples import BARE, with_header
from hostile import bench_result
from unbackdoor.checkpoints import checkpoint
from unbackdoor.core.errors import (
    CheckpointError,
    ParameterError,
    RefusedFileError,
)
from unbackdoor.models import _own_code


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_weights_that_are_not_finite(model, tmp_path, value):
    weights = {name: t.double() for name, t in model.net.state_dict().items()}
    weights["layer2.1.conv2.weight"][0, 0, 0, 0] = value
    torch.save(weights, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"layer2\.1\.conv2\.weight .* not finite"):
        checkpoint.load(tmp_path / "a.pt", **BARE)


@pytest.mark.parametrize("arch", ["os:system", "timm:hf-hub:a/b", "subprocess:run", "a.b:c"])
def test_a_header_names_no_code(model, tmp_path, arch, monkeypatch):
    monkeypatch.setattr(_own_code, "build", lambda *_: pytest.fail("imported"))
    path = with_header(tmp_path / "a.safetensors", model, arch=arch, classes=["a"], options={})
    with pytest.raises(RefusedFileError, match="--arch"):
        checkpoint.load(path)
    bench = bench_result(tmp_path, model.net.state_dict(), [(0, 1)], model_name=arch)
    with pytest.raises(RefusedFileError, match="--arch"):
        checkpoint.load(bench)


@pytest.mark.parametrize(
    ("arch", "option", "value"),
    [
        ("resnet18", "weights", 1),
        ("resnet18", "norm_layer", 1),
        ("timm:resnet18", "pretrained", True),
        ("timm:resnet18", "checkpoint_path", 1),
        ("preact_resnet18", "weights", 1),
    ],
)
def test_a_header_sets_no_option_that_could_harm(model, tmp_path, arch, option, value):
    header = {"arch": arch, "classes": ["a"], "mean": [0], "std": [1], "options": {option: value}}
    with pytest.raises(RefusedFileError, match=option):
        checkpoint.load(with_header(tmp_path / "a.safetensors", model, **header))


@pytest.mark.parametrize(
    "header",
    [
        {"options": {"width": "os.system"}},
        {"options": [1]},
        {"classes": "abc"},
        {"classes": []},
        {"classes": [1, 2, 3]},
        {"mean": [None]},
        {"mean": "[0.1"},
        {"provenance": "[" * 100_000},
        {"provenance": 3},
    ],
)
def test_a_header_of_the_wrong_kind(model, tmp_path, header):
    whole = {"arch": "preact_resnet18", "classes": ["a", "b", "c"], "mean": [0], "std": [1]}
    with pytest.raises(CheckpointError, match="header") as caught:
        checkpoint.load(with_header(tmp_path / "a.safetensors", model, **whole | header))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "header",
    [{"std": [0]}, {"std": [1, 2]}, {"mean": [float("nan")]}, {"mean": [0, 0], "std": [1, 1]}],
)
def test_a_mean_and_std_that_cannot_be(model, tmp_path, header):
    whole = {"arch": "preact_resnet18", "classes": ["a", "b", "c"], "mean": [0], "std": [1]}
    with pytest.raises(ParameterError, match=r"mean|std"):
        checkpoint.load(with_header(tmp_path / "a.safetensors", model, **whole | header))


def test_a_header_that_claims_a_huge_network_takes_no_memory(model, tmp_path):
    header = {"arch": "preact_resnet18", "classes": ["a", "b", "c"], "mean": [0], "std": [1]}
    path = with_header(tmp_path / "a.safetensors", model, **header, options={"width": 2**20})
    with pytest.raises(CheckpointError, match="does not fit"):
        checkpoint.load(path)
