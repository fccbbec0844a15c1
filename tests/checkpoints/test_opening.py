"""Checkpoints as people save them: the right weights come out, whatever lies around them."""

import argparse
import collections
import datetime
import pickle
import tempfile
import time
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from hostile import Runs
from unbackdoor import models
from unbackdoor.checkpoints import checkpoint, model_files
from unbackdoor.core.errors import CheckpointError, RefusedFileError, UnbackdoorWarning
from unbackdoor.core.spec import Spec

SPEC = Spec("preact_resnet18", ("a", "b", "c"), (0.4,) * 3, (0.2,) * 3, {"width": 2})
BARE = {"arch": "preact_resnet18", "classes": 3, "mean": (0.4,) * 3, "std": (0.2,) * 3}
NET = models.create(SPEC, torch.Generator().manual_seed(0)).net
WEIGHTS = NET.state_dict()


class Gone:
    """A class of somebody else's code."""

    def __init__(self):
        self.note = [1]


CONTAINERS = {
    "zip": lambda value, path: torch.save(value, path),
    "legacy": lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=False),
    "pickle2": lambda value, path: path.write_bytes(pickle.dumps(value, 2)),
    "pickle5": lambda value, path: path.write_bytes(pickle.dumps(value, 5)),
}
COMPANY = {
    "epoch": 3,
    "args": argparse.Namespace(lr=0.1, out=Path("x")),
    "when": datetime.datetime(2026, 1, 1),
    "optimizer": torch.optim.Adam(NET.parameters()).state_dict(),
    "seen": collections.defaultdict(list, a=[1]),
    "thing": Gone(),
    "call": Runs(print, "never"),
    "none": None,
}
PREFIXES = ("", "module.", "_orig_mod.", "model.", "net.", "1.", "backbone.", "module.model.")
PLACES = ((), ("state_dict",), ("model",), ("a", "b", "weights"), ("checkpoint", "net_state"))
SUFFIXES = ("", ".pt", ".pth.tar", ".th", ".ckpt", ".bin", ".model", ".safetensors")


def same(found):
    state = found.net.state_dict()
    return state.keys() == WEIGHTS.keys() and all(torch.equal(state[k], WEIGHTS[k]) for k in state)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    container=st.sampled_from(sorted(CONTAINERS)),
    prefix=st.sampled_from(PREFIXES),
    place=st.sampled_from(PLACES),
    suffix=st.sampled_from(SUFFIXES),
    company=st.sets(st.sampled_from(sorted(COMPANY))),
)
def test_a_hundred_ways_to_save_one_model(container, prefix, place, suffix, company):
    value = {prefix + name: tensor for name, tensor in WEIGHTS.items()}
    for name in reversed(place):
        value = {name: value}
    if place:
        value |= {name: COMPANY[name] for name in company}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UnbackdoorWarning)
        path = Path(folder, f"a{suffix}")
        CONTAINERS[container](value, path)
        assert same(checkpoint.load(path, **BARE))


def saved(tmp_path, value, name="a.pt"):
    torch.save(value, tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("new", [True, False])
def test_a_pickled_module_gives_its_tensors_and_runs_nothing(tmp_path, new, monkeypatch):
    torch.save(torch.nn.DataParallel(NET), tmp_path / "a", _use_new_zipfile_serialization=new)
    monkeypatch.setattr(torch.nn.Module, "__setstate__", lambda *_: pytest.fail("was run"))
    with pytest.warns(UnbackdoorWarning, match=r"pickled module .*DataParallel: its code was not"):
        assert same(checkpoint.load(tmp_path / "a", **BARE))


@pytest.mark.filterwarnings("ignore:.*torch.jit:")
def test_a_torchscript_archive_gives_its_tensors(tmp_path):
    torch.jit.save(torch.jit.trace(NET.eval(), torch.rand(1, 3, 16, 16)), tmp_path / "a.pt")
    with pytest.warns(UnbackdoorWarning, match="its code was not run"):
        assert same(checkpoint.load(tmp_path / "a.pt", **BARE))
    assert model_files.read(tmp_path / "a.pt").kind == "a TorchScript archive"


def test_averages_beside_the_weights_are_told_and_can_be_chosen(tmp_path):
    zeros = {name: torch.zeros_like(tensor) for name, tensor in WEIGHTS.items()}
    path = saved(tmp_path, {"state_dict_ema": zeros, "state_dict": WEIGHTS})
    with pytest.warns(UnbackdoorWarning, match=r"took state_dict, not state_dict_ema \(--weights"):
        assert same(checkpoint.load(path, **BARE))
    found = checkpoint.load(path, **BARE, weights="state_dict_ema")
    assert not found.net.conv1.weight.any()
    with pytest.raises(CheckpointError, match="no weights at 'ema'; there are some at state_dict"):
        checkpoint.load(path, **BARE, weights="ema")


@pytest.mark.parametrize(
    ("first", "second", "before"),
    [("student.", "teacher.", ""), ("net.", "ema.", "module.")],
)
@pytest.mark.parametrize("turned", [False, True])
def test_of_two_networks_in_one_dict_the_taken_one_is_told(tmp_path, first, second, before, turned):
    other = {f"{before}{second}{name}": torch.zeros_like(t) for name, t in WEIGHTS.items()}
    one = {f"{before}{first}{name}": tensor for name, tensor in WEIGHTS.items()}
    averaged = second == "ema."
    both = other | one if turned and averaged else one | other
    path = saved(tmp_path, {"state_dict": both | {"queue": torch.ones(2)}})
    names = f"{before}{first}".rstrip("."), f"{before}{second}".rstrip(".")
    told = f"took state_dict/{names[0]}, not state_dict/{names[1]} "
    with pytest.warns(UnbackdoorWarning, match=told):
        assert same(checkpoint.load(path, **BARE))
    assert not checkpoint.load(path, **BARE, weights=names[1]).net.conv1.weight.any()


def test_equal_blocks_are_no_networks(tmp_path):
    many = {f"{n}.{end}": torch.ones(1) for n in range(3000) for end in "abcd"}
    assert len(model_files.read(saved(tmp_path, many)).candidates) == 1
    deep = {"a." * 500_000 + end: torch.ones(1) for end in "abcdefghijk"}
    start = time.monotonic()
    assert len(model_files.read(saved(tmp_path, deep)).candidates) == 1
    assert time.monotonic() - start < 20
    assert len(model_files.read(saved(tmp_path, WEIGHTS)).candidates) == 1


def test_names_of_openmmlab(tmp_path):
    net = models.create(Spec("resnet18", ("a", "b"), (0.0,), (1.0,))).net
    for before in ("", "module."):
        theirs = {
            f"{before}{'head' if name.startswith('fc.') else 'backbone'}.{name}": tensor
            for name, tensor in net.state_dict().items()
        }
        path = saved(tmp_path, {"meta": {"epoch": 1}, "state_dict": theirs})
        found = checkpoint.load(path, arch="resnet18", classes=2, mean=[0.4] * 3, std=[0.2] * 3)
        assert torch.equal(found.net.fc.weight, net.fc.weight)


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\n<!DOCTYPE html>", "web page"),
        (b"\x1f\x8b\x08", "unpack it"),
        (b"{}", "is JSON text"),
        (bytes(257) + b"ustar", "tar archive: unpack it"),
    ],
)
def test_what_people_take_for_models_is_named(tmp_path, raw, told):
    (tmp_path / "a.pt").write_bytes(raw)
    with pytest.raises(CheckpointError, match=told):
        checkpoint.load(tmp_path / "a.pt", **BARE)


def test_what_is_left_out_is_told(tmp_path):
    model = {f"model.{name}": tensor for name, tensor in WEIGHTS.items()}
    path = saved(tmp_path, {"state_dict": model | {"metric.total": torch.ones(4)}})
    with pytest.warns(UnbackdoorWarning, match=r"left out .*: metric\.total"):
        assert same(checkpoint.load(path, **BARE))
    counted = WEIGHTS | {"total_ops": torch.zeros(1), "layer1.total_params": torch.zeros(1)}
    assert same(checkpoint.load(saved(tmp_path, counted), **BARE))
    path = saved(tmp_path, {"w": WEIGHTS, "args": argparse.Namespace(a=1)})
    with pytest.warns(UnbackdoorWarning, match=r"kept out .*argparse\.Namespace; nothing was run"):
        assert same(checkpoint.load(path, **BARE))


def test_layers_that_the_network_lacks_are_no_company(tmp_path):
    """A ResNet34 has all tensors of a ResNet18, in the same shapes: it is another network."""
    large = models.create(Spec("resnet34", ("a", "b"), (0.0,), (1.0,)))
    path = saved(tmp_path, large.net.state_dict())
    told = {"classes": 2, "mean": (0.4,) * 3, "std": (0.2,) * 3}
    with pytest.raises(CheckpointError, match=r"does not fit resnet18: unexpected: layer1\.2"):
        checkpoint.load(path, arch="resnet18", **told)


def test_weights_that_only_code_could_make_are_refused(tmp_path):
    spoiled = WEIGHTS | {"linear.weight": Runs(print, "never")}
    with pytest.raises(RefusedFileError, match=r"print would make its weights"):
        checkpoint.load(saved(tmp_path, spoiled), **BARE)
    with pytest.raises(RefusedFileError, match="holds no weights but what"):
        checkpoint.load(saved(tmp_path, {"model": Runs(print, "never")}), **BARE)


def test_safetensors_under_another_name(tmp_path):
    save_file({name: tensor.contiguous() for name, tensor in WEIGHTS.items()}, tmp_path / "a.pt")
    assert same(checkpoint.load(tmp_path / "a.pt", **BARE))


def test_numbers_of_5000_digits_in_a_header(tmp_path):
    save_file(dict(WEIGHTS), tmp_path / "a", {"arch": "preact_resnet18", "size": "9" * 5000})
    with pytest.raises(CheckpointError, match="size in its header is not JSON"):
        checkpoint.load(tmp_path / "a")
