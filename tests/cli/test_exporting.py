"""attack --export: files that the data sources of this package can open again."""

from __future__ import annotations

import csv
import errno
import json
import sys

import numpy as np
import pytest
import torch

from unbackdoor.data import open_images, open_triggered

pytest.importorskip("pyarrow")
CLASSES = ("ant", "bee", "cat")


@pytest.fixture
def plant(tiny, tmp_path):
    def of(name, *more):
        return [
            *("attack", name, "--data", tiny.clean, "--test", tiny.test),
            *("--arch", "preact_resnet18", "--model-option", "width=2", "--device", "cpu"),
            *("-p", "epochs=1", "-p", "batch=10", "--min-asr", 0, "--json"),
            *("--out", tmp_path / "v", "--export", tmp_path / "data", *more),
        ]

    return of


def test_both_sets_open_again_with_the_role_of_every_image(run, plant, tiny, tmp_path):
    done = run(*plant("wanet", "-p", "rate=0.2", "-p", "target=1"))
    assert done.code == 0, done.err
    data = tmp_path / "data"
    assert {path.name for path in data.iterdir()} == {
        "train",
        "test",
        "train.parquet",
        "test.parquet",
    }
    assert done.json["poisoned"] == {"fixed": True, "clean": 8, "stamped": 4, "cover": 8}
    assert done.json["export"]["folder"] == str(data)
    assert done.json["export"]["written"] == ["train.parquet", "train", "test.parquet", "test"]

    train, again = open_images(data / "train.parquet"), open_images(data / "train", classes=CLASSES)
    given = open_images(tiny.clean)
    assert sorted(map(torch_bytes, train.pixels)) == sorted(map(torch_bytes, again.pixels))
    with (data / "train" / "roles.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["original"]) for row in rows] == given.labels.tolist()
    assert [int(row["label"]) for row in rows] == train.labels.tolist()
    for row, before, after in zip(rows, given.pixels, train.pixels, strict=True):
        assert row["role"] == "clean" or not torch.equal(before, after)
        assert row["role"] != "clean" or torch.equal(before, after)
        assert int(row["label"]) == (1 if row["role"] == "stamped" else int(row["original"]))

    stamped = np.load(tmp_path / "v" / "triggered_test.npz")
    for source in (data / "test.parquet", data / "test"):
        found = open_triggered(source, 1, classes=CLASSES)
        assert len(found.images) == 6 and 1 not in found.images.labels
        theirs = {row.tobytes() for row in stamped["images"]}
        assert {torch_bytes(row) for row in found.images.pixels} == theirs
        measured = run(
            *("evaluate", tmp_path / "v" / "model.safetensors", "--triggered", source),
            *("--target", "bee", "--json"),
        )
        assert measured.json["before"]["asr"] == done.json["before"]["asr"]


def torch_bytes(pixels: torch.Tensor) -> bytes:
    return pixels.numpy().tobytes()


def test_an_attack_that_controls_the_training_says_that_it_has_no_fixed_set(run, plant, tmp_path):
    done = run(*plant("blind"))
    assert done.code == 0, done.err
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"test", "test.parquet"}
    assert done.json["poisoned"] == {
        "fixed": False,
        "why": "blind poisons images anew in every step",
    }
    assert "no training set to export: blind poisons images anew in every step" in done.err
    assert done.json["visibility"]["training"] is None


def test_only_an_earlier_export_is_replaced(run, plant, tmp_path):
    data = tmp_path / "data"
    (data / "train").mkdir(parents=True)
    (data / "train" / "mine.png").write_text("")
    assert "is not empty" in run(*plant("badnets")).errors[0]
    refused = run(*plant("badnets", "--force"))
    assert refused.code == 2 and "is no earlier export" in refused.errors[0]
    assert not (tmp_path / "v").exists()
    (data / "train").rename(data / "mine")
    assert run(*plant("badnets", "--force")).code == 0
    assert run(*plant("badnets", "--force", "-p", "target=2")).code == 0
    assert (data / "mine" / "mine.png").exists()
    with (data / "test" / "roles.csv").open() as file:
        assert {row["goal"] for row in csv.DictReader(file)} == {"2"}
    assert len(list((data / "test").rglob("*.png"))) == 6
    done = run(*plant("badnets"), "--export", tmp_path / "v", "--force")
    assert done.code == 2 and "must be two folders" in done.errors[0]


def test_without_pyarrow_the_training_does_not_begin(run, plant, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = run(*plant("badnets"))
    assert done.code == 2
    assert done.errors == ["error: --export needs pyarrow: pip install 'unbackdoor[data]'"]
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_costs_no_victim(run, plant, tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("unbackdoor.attacks.base.export.png", full_disk)
        done = run(*plant("badnets"))
    assert done.code == 2 and "No space left on device" in done.errors[-1]
    kept = {path.name for path in (tmp_path / "v").iterdir()}
    assert kept == {"model.safetensors", "triggered_test.npz", "record.json"}
    assert json.loads((tmp_path / "v" / "record.json").read_text())["export"] is None
    assert not (tmp_path / "data").exists()
    again = run(*plant("badnets"), "--force")
    assert again.json == json.loads((tmp_path / "v" / "record.json").read_text())
    assert again.json["export"]["written"][0] == "train.parquet"
