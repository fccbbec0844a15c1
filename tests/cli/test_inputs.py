"""What the command line says of images before any work, and how a fault of ours ends."""

import re

import pytest
import torch

from unbackdoor.cli import options
from unbackdoor.core.errors import ParameterError, UnknownNameError


@pytest.mark.parametrize(
    ("text", "size"), [("32", (32, 32)), ("24x48", (24, 48)), ("24X48", (24, 48)), (None, None)]
)
def test_a_size_is_one_number_or_two(text, size):
    assert options.size(text) == size


@pytest.mark.parametrize("text", ["0", "a", "3x4x5", "-3", "3x0", ""])
def test_no_other_size(text):
    with pytest.raises(ParameterError, match="--size"):
        options.size(text)


def test_columns_are_named_both():
    assert options.columns("label=y,image=x") == ("x", "y")
    for text in ("image=x", "image=x,labels=y", "x,y"):
        with pytest.raises(ParameterError, match="--columns"):
            options.columns(text)


def test_a_target_with_two_meanings_is_refused():
    assert options.goal("2", ("a", "b", "c")) == 2 and options.goal("b", ("a", "b")) == 1
    assert options.goal("10", ("9", "10")) == 1
    assert options.goal("1", ("0", "1", "2")) == 1
    with pytest.raises(ParameterError, match="name of class 1, and the number of the class '4'"):
        options.goal("2", ("3", "2", "4"))
    with pytest.raises(UnknownNameError):
        options.goal("x", ("a", "b"))


def test_the_size_is_told_kept_and_a_guess_is_said(run, tiny, tmp_path):
    from safetensors import safe_open

    bare = tmp_path / "bare.pt"
    from unbackdoor.checkpoints import checkpoint

    torch.save(checkpoint.load(tiny.model).net.state_dict(), bare)
    told = ("--arch", "preact_resnet18", "--classes", 3, "--mean", ".5,.5,.5", "--std", ".2,.2,.2")
    done = run("evaluate", bare, *told, "--test", tiny.test)
    assert done.code == 0 and "16x16, the most common one in" in done.err and "guess" in done.err
    done = run("evaluate", bare, *told, "--test", tiny.test, "--size", 16)
    assert done.code == 0 and "guess" not in done.err
    out = tmp_path / "out.safetensors"
    assert run("convert", bare, out, *told, "--size", "16").code == 0
    with safe_open(out, framework="pt") as file:
        assert file.metadata()["size"] == "[16, 16]"
    done = run("evaluate", out, "--test", tiny.test)
    assert done.code == 0 and "guess" not in done.err


def test_means_of_0_to_255_are_refused(run, tiny):
    scale = ("--mean", "127.5,127.5,127.5", "--std", "60,60,60")
    done = run("evaluate", tiny.model, "--test", tiny.test, *scale)
    assert done.code == 2 and "divide by 255: [0.5, 0.5, 0.5]" in done.err


def test_a_fault_of_ours_is_one_line_with_its_own_code(run, tiny, monkeypatch, tmp_path):
    from unbackdoor import api

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def broken(*_, **__):
        raise KeyError("\x1b[31mred")

    monkeypatch.setattr(api, "evaluate", broken)
    done = run("evaluate", tiny.model, "--test", tiny.test)
    assert done.code == 70 and len(done.err.splitlines()) == 1 and "\x1b" not in done.err
    (path,) = re.findall(r"details are in (\S+)", done.err)
    with open(path) as file:  # noqa: PTH123
        assert "Traceback" in file.read()
