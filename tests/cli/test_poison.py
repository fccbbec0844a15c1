"""poison: data without a victim, in three layouts, and a record that says what was changed."""

from __future__ import annotations

import csv
import json
import warnings

import numpy as np
import pytest
import torch

from unbackdoor.attacks.base.backdoorbench import rows_of
from unbackdoor.core.errors import UnbackdoorWarning
from unbackdoor.core.images import Images
from unbackdoor.core.method import find
from unbackdoor.data import open_images, open_triggered

COUNT = ("-p", "count=4", "-p", "size=2")


def poison(run, tiny, folder, *more):
    done = run("poison", tiny.clean, "--test", tiny.test, "--out", folder, *more, "--json")
    assert done.code == 0, done.err
    assert done.json == json.loads((folder / "record.json").read_text())
    return done.json


@pytest.mark.parametrize("layout", ["folders", "parquet"])
def test_training_set_clean_and_triggered_test_set_lie_beside_each_other(
    run, tiny, tmp_path, layout
):
    record = poison(run, tiny, tmp_path / "p", "--attack", "badnets", *COUNT, "--layout", layout)
    end = ".parquet" if layout == "parquet" else ""
    names = [f"{part}{end}" for part in ("train", "test_clean", "test_triggered")]
    assert record["written"] == names
    assert {path.name for path in (tmp_path / "p").iterdir()} == {*names, "record.json"}
    before, test = open_images(str(tiny.clean)), open_images(str(tiny.test))
    train, clean = (open_images(tmp_path / "p" / name) for name in names[:2])
    stamped = open_triggered(tmp_path / "p" / names[2], 0)
    assert train.classes == clean.classes == stamped.images.classes == before.classes
    assert len(train) == len(before) and len(clean) == len(test)
    assert (stamped.images.pixels[..., -2:, -2:] == 255).all()
    assert 0 < len(stamped.goals) < len(test)
    rows = record["indices"]["stamped"]
    assert len(rows) == 4 == record["poisoned"]["stamped"] and record["indices"]["cover"] == []
    if layout == "parquet":
        changed = (train.pixels != before.pixels).flatten(1).any(1).nonzero().flatten()
        assert changed.tolist() == rows
        assert (train.labels[rows] == 0).all()
        assert torch.equal(clean.pixels, test.pixels)
    else:
        with (tmp_path / "p" / "train" / "roles.csv").open() as file:
            roles = [row["role"] for row in csv.DictReader(file)]
        assert [row for row, role in enumerate(roles) if role == "stamped"] == rows


def test_backdoorbench_s_layout_is_read_as_its_results_are(run, tiny, tmp_path):
    more = ("--attack", "badnets", *COUNT, "-p", "target=1", "--layout", "backdoorbench")
    record = poison(run, tiny, tmp_path / "p", *more)
    stamped = open_triggered(tmp_path / "p" / "attack_result.pt")
    test = open_images(str(tiny.test))
    assert set(stamped.goals.tolist()) == {1}
    aimed = test[test.labels != 1]
    assert torch.equal(stamped.images.labels, aimed.labels)
    assert torch.equal(stamped.images.pixels[..., :-2, :], aimed.pixels[..., :-2, :])
    assert record["written"] == [
        *("attack_result.pt", "bd_train_dataset", "bd_test_dataset", "test_clean")
    ]
    assert len(open_images(tmp_path / "p" / "test_clean")) == len(test)
    told = torch.load(tmp_path / "p" / "attack_result.pt", weights_only=False)
    assert told["num_classes"] == 3 and told["img_size"] == (16, 16, 3)
    entries = told["bd_train"]["bd_data_container"]["data_dict"]
    assert sorted(entries) == record["indices"]["stamped"]
    assert np.flatnonzero(told["bd_train"]["poison_indicator"]).tolist() == sorted(entries)
    before = open_images(str(tiny.clean))
    for row, entry in entries.items():
        assert entry["other_info"] == [1, int(before.labels[row])]
        assert entry["path"].startswith("./record/p/bd_train_dataset/")


def test_the_same_images_are_poisoned_again_from_their_numbers(run, tiny, tmp_path):
    first = poison(run, tiny, tmp_path / "a", "--attack", "blended", "-p", "count=5")
    rows = first["indices"]["stamped"]
    (tmp_path / "rows.txt").write_text("\n".join(map(str, rows)))
    again = ("--attack", "blended", "-p", f"indices={tmp_path / 'rows.txt'}", "--seed", "9")
    second = poison(run, tiny, tmp_path / "b", *again)
    assert second["indices"] == first["indices"]
    assert set(second["files"]) == {"indices"}
    one, two = (open_images(tmp_path / part / "train") for part in "ab")
    assert torch.equal(one.pixels, two.pixels)


def test_a_person_is_told_how_many_images_are_triggered(run, tiny, tmp_path):
    more = ("--attack", "badnets", *COUNT, "--out", tmp_path / "p")
    assert "triggered training images" in run("poison", tiny.clean, *more).out


def test_backdoorbench_s_layout_needs_the_test_set(run, tiny, tmp_path):
    more = ("--attack", "badnets", "--layout", "backdoorbench", "--out", tmp_path / "p")
    done = run("poison", tiny.clean, *more)
    assert done.code == 2 and "--test" in done.errors[0]


def test_without_a_test_set_indices_number_the_images_that_were_given(run, tiny, tmp_path):
    more = ("--attack", "badnets", *COUNT, "--layout", "parquet", "--out", tmp_path / "p")
    record = run("poison", tiny.clean, *more, "--json").json
    before, after = open_images(str(tiny.clean)), open_images(tmp_path / "p" / "train.parquet")
    assert len(after) == 18 and len(before) == 20
    changed = after[(after.pixels[..., -2:, -2:] == 255).flatten(1).all(1)]
    originals = before[torch.tensor(record["indices"]["stamped"])]
    assert torch.equal(changed.pixels[..., :-2, :], originals.pixels[..., :-2, :])
    (tmp_path / "rows.txt").write_text("1")
    rows = ("-p", f"indices={tmp_path / 'rows.txt'}", "--out", tmp_path / "q")
    done = run("poison", tiny.clean, "--attack", "badnets", *rows)
    assert done.code == 2 and "give --test" in done.errors[0]


def test_a_learned_trigger_needs_a_network_and_learns_on_it(run, tiny, tmp_path):
    asked = ("poison", tiny.clean, "--test", tiny.test, "--attack", "lf", "--out", tmp_path / "p")
    done = run(*asked)
    assert done.code == 2 and "--arch" in done.errors[0]
    more = ("--arch", "preact_resnet18", "--model-option", "width=2", "-p", "clean_epochs=1")
    done = run(*asked, *more, "-p", "steps=1", "-p", "batch=10", "--device", "cpu", "--json")
    assert done.code == 0, done.err
    assert done.json["poisoned"]["stamped"] >= 1


def test_an_attack_without_a_poisoned_set_is_refused(run, tiny, tmp_path):
    asked = (
        "poison",
        tiny.clean,
        "--test",
        tiny.test,
        "--attack",
        "blind",
        "--out",
        tmp_path / "p",
    )
    done = run(*asked)
    assert done.code == 2 and "no fixed poisoned set" in done.errors[0]
    assert not (tmp_path / "p").exists()


def test_rows_are_found_by_what_an_image_shows():
    pixels = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1)
    whole = Images(pixels, torch.tensor([0, 1, 0, 1, 0, 1]), ("a", "b"))
    assert rows_of(whole[torch.tensor([1, 2, 5])], whole) == [1, 2, 5]


@pytest.mark.parametrize("layout", ["parquet", "backdoorbench"])
def test_the_goals_of_a_label_map_are_read_back(run, tiny, tmp_path, layout):
    more = ("--attack", "badnets", *COUNT, "-p", 'target={"0": 2, "1": 0}', "--layout", layout)
    poison(run, tiny, tmp_path / "p", *more)
    name = "attack_result.pt" if layout == "backdoorbench" else "test_triggered.parquet"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnbackdoorWarning)
        found = open_triggered(tmp_path / "p" / name)
        done = run("evaluate", tiny.model, "--triggered", tmp_path / "p" / name, "--json")
    pairs = set(zip(found.images.labels.tolist(), found.goals.tolist(), strict=True))
    assert pairs == {(0, 2), (1, 0)}
    assert done.code == 0 and done.json["before"]["asr"]["total"] == len(found.goals), done.err


def test_goals_of_a_file_are_said_and_a_target_that_is_given_wins(run, tiny, tmp_path):
    more = ("--attack", "badnets", *COUNT, "-p", 'target={"0": 2}', "--layout", "parquet")
    poison(run, tiny, tmp_path / "p", *more)
    file = tmp_path / "p" / "test_triggered.parquet"
    with pytest.warns(UnbackdoorWarning, match="images should go where its 'goal' says"):
        open_triggered(file)
    assert set(open_triggered(file, 1).goals.tolist()) == {1}


def test_images_of_other_classes_get_the_trigger_of_a_source_specific_attack(run, tiny, tmp_path):
    more = ("--attack", "badnets", "-p", "sources=[1]", "-p", "size=2", "--layout", "parquet")
    record = poison(run, tiny, tmp_path / "p", *more)
    assert record["written"][-1] == "test_triggered_elsewhere.parquet"
    found = open_triggered(tmp_path / "p" / record["written"][-1], 0)
    assert set(found.images.labels.tolist()) == {2}
    assert (found.images.pixels[..., -2:, -2:] == 255).all()


@pytest.mark.parametrize("name", ["refool", "ssba"])
def test_what_is_learned_from_images_alone_needs_no_network(run, tiny, tmp_path, name):
    more = () if name == "refool" else ("-p", "steps=1", "-p", "width=1")
    record = poison(run, tiny, tmp_path / "p", "--attack", name, *more)
    assert record["model"] is None and record["poisoned"]["stamped"]


def test_a_network_that_is_named_decides_the_channels_all_the_same(run, tiny, tmp_path):
    grey = ("--arch", "preact_resnet18", "--model-option", "width=2")
    more = ("--attack", "refool", *grey, "--model-option", "in_channels=1", "--layout", "parquet")
    record = poison(run, tiny, tmp_path / "p", *more)
    assert record["model"]["options"]["in_channels"] == 1
    assert open_images(tmp_path / "p" / "test_clean.parquet").shape[0] == 1


@pytest.mark.parametrize("name", ["lira", "input_aware"])
def test_an_attack_that_controls_the_training_is_refused_before_it_learns(
    run, tiny, tmp_path, name, monkeypatch
):
    def learn(*_):
        raise AssertionError("it learned")

    monkeypatch.setattr(find("attack", name), "learn", learn)
    done = run("poison", tiny.clean, "--attack", name, "--out", tmp_path / "p")
    assert done.code == 2 and "no fixed poisoned set" in done.err


def test_a_data_set_that_backdoorbench_does_not_read_is_said(run, tiny, tmp_path):
    more = ("--attack", "badnets", *COUNT, "--layout", "backdoorbench")
    record = poison(run, tiny, tmp_path / "p", *more)
    assert any("BackdoorBench reads the clean images of" in text for text in record["warnings"])
    assert record["triggered"]["source"] == "bd_test_dataset"
