import errno
import os
import struct
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from checkpoints.samples import BARE, SPEC
from hostile import bench_result, touches
from unbackdoor.checkpoints import checkpoint
from unbackdoor.core.errors import (
    CheckpointError,
    OutputError,
    UnbackdoorWarning,
)
from unbackdoor.network.inserts import Bound, Polish, attach_

ZOO = Path(__file__).parents[3] / "shared" / "zoo"


def same(first, second):
    ours, theirs = first.net.state_dict(), second.net.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_is_loaded(model, tmp_path):
    path = tmp_path / "new" / "a.safetensors"
    checkpoint.save(model, path, {"seed": 3, "made": {"by": "fmp"}})
    found = checkpoint.load(path)
    assert same(model, found) and not found.training
    assert found.spec.classes == SPEC.classes and found.spec.mean == SPEC.mean
    assert checkpoint.provenance(path) == {"seed": 3, "made": {"by": "fmp"}}
    assert names_in(path.parent) == ["a.safetensors"]


def with_inserts(model):
    polish = attach_(model, "net.layer3.0.conv2", Polish(8))
    bound = attach_(model, "net.layer1.0.bn1", Bound(2))
    polish.conv.weight.data.mul_(3)
    bound.most.fill_(0.1)
    return model


def test_the_inserts_of_a_repair_are_saved_and_loaded(model, tmp_path):
    x = torch.rand(2, 3, 16, 16)
    bare = model(x)
    checkpoint.save(with_inserts(model).eval(), tmp_path / "a.safetensors", {})
    found = checkpoint.load(tmp_path / "a.safetensors")
    assert torch.equal(found(x), model(x)) and not torch.equal(found(x), bare)
    wrapped = {f"module.{name}": value for name, value in model.net.state_dict().items()}
    torch.save(wrapped, tmp_path / "a.pt")
    assert torch.equal(checkpoint.load(tmp_path / "a.pt", **BARE)(x), model(x))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"layer3.0.conv2.filter.conv.weight": torch.ones(8, 8, 3, 3)},
            "unexpected: layer3.0.conv2.filter.conv",
        ),
        (
            {"layer3.0.conv2.filter.norm.bias": torch.ones(9)},
            "layer3.0.conv2.filter.norm.bias \\[9\\] instead",
        ),
        ({"layer1.0.bn1.bound.most": torch.ones(3)}, "bound.most \\[3\\] instead of \\[2\\]"),
        ({"layer1.0.bn1.bound.most": None}, "missing: layer1.0.bn1.bound.most"),
        ({"layer1.0.bn1.bound.share": torch.ones(3)}, "unexpected: layer1.0.bn1.bound.share"),
        ({"layer1.0.bn1.bound.more": torch.ones(2)}, "unexpected: layer1.0.bn1.bound.more"),
        ({"layer1.bound.share": torch.ones(2)}, "unexpected: layer1.bound.share"),
        ({"linear.bound.share": torch.ones(4)}, "unexpected: linear.bound.share"),
        ({"layer1.0.bn1.bound.share": torch.ones(1).expand(2)}, "not an ordinary tensor"),
        ({"layer3.0.conv1.filter.norm.weight": torch.ones(9)}, "unexpected: layer3.0.conv1.filter"),
    ],
)
def test_inserts_that_do_not_fit_are_refused(model, tmp_path, changes, told):
    state = dict(with_inserts(model).net.state_dict()) | changes
    torch.save({k: v for k, v in state.items() if v is not None}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=told):
        checkpoint.load(tmp_path / "a.pt", **BARE)


def test_a_small_file_cannot_claim_a_large_insert(model, tmp_path):
    state = dict(model.net.state_dict())
    one = torch.ones(1)
    state["layer3.0.conv2.filter.norm.weight"] = one.expand(200_000)
    state["layer3.0.conv2.filter.conv.weight"] = one.expand(200_000, 200_000, 1, 1)
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="weight is not an ordinary tensor"):
        checkpoint.load(tmp_path / "a.pt", **BARE)


def test_an_argument_wins_over_the_header(model, tmp_path):
    checkpoint.save(model, tmp_path / "a.safetensors", {})
    names = ["x", "y", "z"]
    found = checkpoint.load(tmp_path / "a.safetensors", classes=names, mean=[0.1] * 3, std=[1] * 3)
    assert found.spec.classes == ("x", "y", "z") and found.spec.mean == (0.1,) * 3
    assert checkpoint.load(tmp_path / "a.safetensors", classes=3).spec.classes == SPEC.classes


@pytest.mark.parametrize("key", [None, "state_dict", "model", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "net.", "module.net."])
def test_state_dicts_in_their_wrappings(model, tmp_path, key, prefix):
    weights = OrderedDict((prefix + name, t) for name, t in model.net.state_dict().items())
    torch.save({key: weights, "epoch": 3} if key else weights, tmp_path / "a.pth")
    assert same(model, checkpoint.load(tmp_path / "a.pth", **BARE))


def test_half_precision_is_read_as_float32(model, tmp_path):
    torch.save(model.net.half().state_dict(), tmp_path / "a.pt")
    found = checkpoint.load(tmp_path / "a.pt", **BARE)
    assert {p.dtype for p in found.parameters()} == {torch.float32}


def test_what_a_bare_state_dict_does_not_say_is_read_off_or_asked_for(model, tmp_path):
    torch.save(model.net.state_dict(), tmp_path / "a.pt")
    with pytest.warns(UnbackdoorWarning) as told:
        found = checkpoint.load(tmp_path / "a.pt")
    assert same(model, found) and found.spec.mean == (0.0,) * 3 and found.spec.std == (1.0,) * 3
    said = " ".join(str(warning.message) for warning in told)
    assert "those of preact_resnet18" in said and "mean 0 and std 1" in said and "3" in said
    torch.save({"odd.weight": torch.ones(3, 3)}, tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match="no known network has its tensors"):
        checkpoint.load(tmp_path / "b.pt")


def test_a_backdoorbench_result(model, tmp_path):
    weights = {"module." + name: t for name, t in model.net.state_dict().items()}
    path = bench_result(tmp_path, weights, [(0, 1)])
    with pytest.warns(UnbackdoorWarning, match="BackdoorBench's mean"):
        found = checkpoint.load(path)
    assert same(model, found) and found.spec.classes == ("0", "1", "2")
    assert found.spec.std == (0.247, 0.243, 0.261)
    assert checkpoint.load(path, mean=(0.5,) * 3, std=(0.5,) * 3).spec.mean == (0.5,) * 3


def test_mismatches_are_told_by_name_and_shape(model, tmp_path):
    weights = model.net.state_dict()
    weights["extra"] = weights.pop("linear.bias")
    weights["layer1.0.bn1.bias"] = torch.zeros(7)
    torch.save(weights, tmp_path / "a.pt")
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(tmp_path / "a.pt", **BARE)
    told = str(caught.value)
    assert "missing: linear.bias" in told and "unexpected: extra" in told
    assert "layer1.0.bn1.bias [7] instead of [2]" in told
    with pytest.raises(CheckpointError, match=r"missing: .* more; unexpected") as caught:
        checkpoint.load(tmp_path / "a.pt", **BARE | {"arch": "resnet18"})
    assert len(str(caught.value)) < 1500


def test_a_wrong_number_of_classes_says_both(model, tmp_path):
    checkpoint.save(model, tmp_path / "a.safetensors", {})
    with pytest.raises(CheckpointError, match="model of 3 classes, not of the 10"):
        checkpoint.load(tmp_path / "a.safetensors", classes=10)


def test_expanded_tensors_are_refused(model, tmp_path):
    weights = model.net.state_dict()
    weights["linear.weight"] = torch.zeros(1).expand(3, 16)
    torch.save(weights, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"linear\.weight is not an ordinary"):
        checkpoint.load(tmp_path / "a.pt", **BARE)


def test_damaged_safetensors(model, tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(model, path, {})
    whole = path.read_bytes()
    huge = struct.pack("<Q", 2**62) + whole[8:]
    for damaged in (whole[:-5], whole[:20], b"", huge, struct.pack("<Q", 2) + b"[]", b"x" * 99):
        path.write_bytes(damaged)
        for read in (checkpoint.load, checkpoint.provenance):
            with pytest.raises(CheckpointError, match="truncated") as caught:
                read(path)
            assert "\n" not in str(caught.value)


def test_files_that_are_no_models(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"a": 1, "b": "c"}, tmp_path / "dict.pt")
    for name, told in {
        "a.txt": "no file of torch.save",
        "none.pt": "no such file",
        "none.safetensors": "no such file",
        "list.pt": "holds no state dict",
        "dict.pt": "holds no state dict",
    }.items():
        with pytest.raises(CheckpointError, match=told):
            checkpoint.load(tmp_path / name, **BARE)


def test_a_pickle_under_any_name_runs_nothing(tmp_path):
    marker = tmp_path / "marker"
    for name in ("a.pt", "a.pth", "a.safetensors"):
        torch.save({"state_dict": touches(marker)}, tmp_path / name)
        with pytest.raises(CheckpointError):
            checkpoint.load(tmp_path / name, **BARE)
    assert not marker.exists()


def test_a_full_disk_leaves_the_old_file_and_no_part(model, tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    checkpoint.save(model, path, {"n": 1})

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        checkpoint.save(model, path, {"n": 2})
    assert checkpoint.provenance(path) == {"n": 1} and names_in(tmp_path) == [path.name]


def test_an_interrupted_write_leaves_no_file(model, tmp_path, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(model, tmp_path / "a.safetensors", {})
    assert names_in(tmp_path) == []


@pytest.mark.skipif(not ZOO.is_dir(), reason="needs the shared victims")
def test_a_victim_of_the_zoo_tells_all_but_its_width():
    found = checkpoint.load(ZOO / "cifar10-badnets-w32-short" / "model.safetensors")
    assert found.spec.options["width"] == 32 and found.spec.classes[0] == "airplane"
    assert found.spec.mean == (0.4914, 0.4822, 0.4465)
