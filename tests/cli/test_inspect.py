from __future__ import annotations

import pytest
import torch

from hostile import touches
from unbackdoor import models
from unbackdoor.models import _recognize


@pytest.fixture(autouse=True)
def only_small_timm(monkeypatch):
    """Looking through all of timm takes seconds."""
    timm = pytest.importorskip("timm")
    names = ["efficientnet_lite0", "tf_efficientnet_lite0", "resnet18"]
    monkeypatch.setattr(timm, "list_models", lambda: names)


def test_inspect_tells_what_a_bare_file_is(run, tmp_path):
    net = models.bare("cifar_resnet", 4, {"depth": 8, "width": 4})
    state = {f"module.{name}": value for name, value in net.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "a.pt")
    told = run("inspect", tmp_path / "a.pt", "--json").json
    assert told["format"] == "torch.save (zip)" and told["keys"] == ["state_dict", "epoch"]
    assert told["globals"] == [] and told["error"] is None
    assert told["parameters"] == sum(t.numel() for t in net.state_dict().values())
    shapes = {tensor["name"]: tensor["shape"] for tensor in told["tensors"]}
    assert shapes["module.conv1.weight"] == [4, 3, 3, 3]
    (fit,) = told["architectures"]
    assert (fit["arch"], fit["classes"], fit["options"]["width"]) == ("cifar_resnet", 4, 4)
    shown = run("inspect", tmp_path / "a.pt").out
    assert "fits: cifar_resnet, 4 classes, depth 8, width 4" in shown
    assert "module.conv1: weight [4, 3, 3, 3]" in shown


def test_inspect_names_all_that_fit_and_whether_they_differ(run, tmp_path):
    torch.save(models.bare("timm:efficientnet_lite0", 5, {}).state_dict(), tmp_path / "a.pt")
    fits = run("inspect", tmp_path / "a.pt", "--json").json["architectures"]
    assert [fit["same_as_first"] for fit in fits] == [True, False]
    torch.save(models.bare("resnet18", 5, {}).state_dict(), tmp_path / "a.pt")
    fits = run("inspect", tmp_path / "a.pt", "--json").json["architectures"]
    assert [fit["arch"] for fit in fits] == ["resnet18", "timm:resnet18"]
    assert [fit["same_as_first"] for fit in fits] == [True, True]


def test_inspect_tells_what_a_header_says(run, tiny, monkeypatch):
    monkeypatch.setattr(_recognize, "timm", lambda state: pytest.fail("looked for"))
    told = run("inspect", tiny.model, "--json").json
    assert told["format"] == "safetensors"
    assert told["header"]["arch"] == "preact_resnet18"
    assert told["header"]["classes"] == ["ant", "bee", "cat"]
    assert "says arch: preact_resnet18" in run("inspect", tiny.model).out


def test_inspect_runs_nothing_and_names_the_code(run, tmp_path):
    marker = tmp_path / "marker"
    torch.save({"evil": touches(marker)}, tmp_path / "a.pt")
    done = run("inspect", tmp_path / "a.pt", "--json")
    assert done.json["globals"] and not marker.exists()


def test_no_control_character_of_a_file_reaches_the_terminal(run, tmp_path):
    name = "\x1b]0;evil\x07\u202e.weight\n"
    torch.save({name: torch.zeros(2), "b": torch.zeros(2)}, tmp_path / "a.pt")
    done = run("inspect", tmp_path / "a.pt")
    assert "\\x1b]0;evil\\x07\\u202e" in done.out
    for bad in ("\x1b", "\x07", "\u202e"):
        assert bad not in done.out + done.err
    failed = run("convert", tmp_path / "a.pt", tmp_path / "o.safetensors", "--arch", "resnet18")
    assert failed.code == 2 and "\x1b" not in failed.err and "\\x1b" in failed.err


def test_inspect_of_what_is_no_model(run, tmp_path):
    assert run("inspect", tmp_path / "none.pt").code == 2
    (tmp_path / "a.pt").write_bytes(b"\x89HDF\r\n\x1a\n")
    done = run("inspect", tmp_path / "a.pt", "--json")
    assert done.code == 2 and "HDF5" in done.json["format"] and done.json["error"]
