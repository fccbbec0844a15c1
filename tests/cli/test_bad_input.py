"""Each mistake is one clear line on stderr and exit code 2, writes nothing, and is no traceback."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from .conftest import noise, save_npz


@pytest.fixture
def refused(run, tmp_path):
    def check(*argv: object, says: str) -> None:
        before = sorted(tmp_path.rglob("*"))
        done = run(*argv)
        assert done.code == 2, done
        assert done.out == ""
        assert len(done.errors) == 1 and done.errors[0].startswith("error: "), done.err
        assert re.search(says, done.errors[0]), done.err
        assert sorted(tmp_path.rglob("*")) == before

    return check


@pytest.fixture
def repairing(refused, tiny, tmp_path):
    """Checks that a repair with these arguments is refused."""

    def check(*more: object, says: str, model: object = None, clean: object = None) -> None:
        argv = ["repair", model or tiny.model, "--clean", clean or tiny.clean]
        refused(*argv, "--out", tmp_path / "out", *more, says=says)

    return check


def test_missing_files(repairing):
    repairing(model="nowhere.safetensors", says="nowhere.safetensors")
    repairing(clean="nowhere.npz", says="nowhere.npz")
    repairing("--test", "nowhere.npz", says="nowhere.npz")
    repairing("--triggered", "nowhere.npz", "--target", 0, says="nowhere.npz")


def test_truncated_files(repairing, tiny, tmp_path):
    short = tmp_path / "short.safetensors"
    short.write_bytes(tiny.model.read_bytes()[:5000])
    repairing(model=short, says="short.safetensors")
    images = tmp_path / "short.npz"
    images.write_bytes(tiny.clean.read_bytes()[:3000])
    repairing(clean=images, says="short.npz")


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_runs_code_is_not_run(
    repairing, refused, tmp_path, protocol, tmp_path_factory
):
    went_off = tmp_path_factory.mktemp("bomb") / "went-off"
    path = tmp_path / "evil.pt"
    torch.save({"conv1.weight": Bomb(went_off)}, path, pickle_protocol=protocol)
    about = ("--arch", "preact_resnet18", "--classes", 3)
    repairing(*about, model=path, says="evil.pt.*Path")
    bare = tmp_path / "bare.pth"
    bare.write_bytes(pickle.dumps(Bomb(went_off)))
    refused("convert", bare, tmp_path / "x.safetensors", *about, says="bare.pth")
    assert not went_off.exists()


def test_models_that_do_not_fit(repairing, tiny, tmp_path):
    repairing("--arch", "resnet18", says="missing|unexpected|fit")
    repairing("--arch", "preact_resnet19", says="preact_resnet18")
    repairing("--classes", 7, says="3 classes.*7")
    repairing("--model-option", "widht=2", says="width")
    repairing("--model-option", "width", says="KEY=VALUE")
    repairing("--mean", "0.5,x,0.5", says="--mean")
    repairing("--classes", "a,,b", says="--classes")


def test_nan_weights(repairing, refused, tmp_path):
    from unbackdoor.checkpoints import checkpoint
    from unbackdoor.core.spec import Spec
    from unbackdoor.models import create

    spec = Spec("preact_resnet18", ("a", "b", "c"), (0.5,) * 3, (0.2,) * 3, {"width": 2})
    model = create(spec)
    model.net.conv1.weight.data[0, 0, 0, 0] = float("nan")
    path = tmp_path / "nan.safetensors"
    checkpoint.save(model, path, {})
    repairing(model=path, says="conv1.weight.*not finite")
    refused("evaluate", path, "--test", "digits:test", says="conv1.weight.*not finite")


def test_images_that_do_not_fit(repairing, tmp_path):
    pixels, labels = noise(6, 0)
    repairing(clean=save_npz(tmp_path / "far.npz", pixels, labels + 5), says="labels")
    empty = tmp_path / "empty.npz"
    np.savez(empty, images=pixels[:0], labels=labels[:0])
    repairing(clean=empty, says="empty.npz|no images|needs clean images")
    repairing(clean="digits:test", says="labels run from 0 to 9|10 classes|3 classes")
    repairing(clean=save_npz(tmp_path / "one.npz", pixels[:1], labels[:1]), says="at least 2")


def test_folders_of_images(repairing, tmp_path):
    for name in ("ant", "bee", "cat"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
    for name in ("ant", "bee"):
        Image.new("RGB", (16, 16)).save(tmp_path / "pictures" / name / "0.png")
    repairing(clean=tmp_path / "pictures", says="cat")
    (tmp_path / "pictures" / "cat" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    repairing(clean=tmp_path / "pictures", says="broken.png")


def test_methods_and_parameters(repairing):
    repairing("--defense", "fmpp", says="'fmpp'; did you mean 'fmp'")
    repairing("-p", "epoch=1", says="'epoch'; did you mean 'epochs'")
    repairing("-p", "epochs=-1", says="epochs.*greater than or equal to 0.*-1")
    repairing("-p", "epochs=many", says="epochs")
    repairing("-p", "epochs", says="KEY=VALUE")
    repairing("-p", "epochs=1", "-p", "epochs=2", says="twice")


def test_goals_and_bounds_that_cannot_be_measured(repairing, refused, tiny):
    repairing("--max-asr", 0.1, says="--max-asr needs triggered images")
    repairing("--target", 0, says="--triggered")
    stamped = ("--triggered", tiny.triggered)
    repairing(*stamped, says="target")
    repairing(*stamped, "--target", 3, says="target 3.*3 classes")
    repairing(*stamped, "--target", "bea", says="did you mean 'bee'")
    repairing("--max-asr", 1.5, *stamped, "--target", 0, says="max-asr")
    refused("evaluate", tiny.model, says="--test")
    refused("evaluate", tiny.model, "--min-acc", 0.5, *stamped, "--target", 0, says="--min-acc")


def test_usage(refused, repairing):
    refused("repair", says="Missing argument 'MODEL'")
    refused("repare", says="repare")
    repairing("--colour", says="--colour")
    repairing("--precision", "fp8", says="fp8")
    repairing("--seed", "x", says="seed")
    refused("describe", "badnet", says="did you mean 'badnets'")


def test_devices_that_are_not_there(repairing):
    if not torch.cuda.is_available():
        repairing("--device", "cuda", says="no usable cuda device")


def test_output_folders(repairing, tiny, tmp_path):
    (tmp_path / "file").write_text("")
    repairing("--out", tmp_path / "file", says="a file, not a folder")
    repairing(
        "--out", tmp_path / "file" / "under", says="cannot write|not a folder|Not a directory"
    )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    repairing("--out", tmp_path / "full", says="full is not empty; --force")
    repairing("--out", "/dev/null/x", says="/dev/null")
    repairing("--out", "/proc/unbackdoor", says="cannot write to /proc/unbackdoor")
