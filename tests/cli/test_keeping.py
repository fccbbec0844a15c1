"""What an attack learns is learned once, wherever the next command is typed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from unbackdoor.cli import keeping
from unbackdoor.core.errors import OutputError

standard = keeping.standard  # before the tests put a folder of theirs in its place


@pytest.fixture
def plant(tiny):
    return [
        *("attack", "ssba", "--data", tiny.clean, "--test", tiny.test),
        *("--arch", "preact_resnet18", "--model-option", "width=2", "--device", "cpu"),
        *("-p", "epochs=1", "-p", "batch=10", "-p", "steps=2", "-p", "width=2", "-p", "bits=2"),
        *("--min-asr", 0, "--json"),
    ]


def test_a_second_command_does_not_learn_again(run, plant, tmp_path, standard_cache):
    first = run(*plant, "--out", tmp_path / "first")
    assert first.code == 0, first.err
    assert "encoder" in first.json["seconds"]
    assert [path.suffix for path in standard_cache.iterdir()] == [".safetensors"]
    again = run(*plant, "--out", tmp_path / "again")
    assert "training" in again.json["seconds"] and "encoder" not in again.json["seconds"]
    assert again.json["before"] == first.json["before"]
    assert "encoder" in run(*plant, "--seed", 1, "--out", tmp_path / "other").json["seconds"]


def test_another_folder_can_be_chosen(run, plant, tmp_path, standard_cache):
    for name in ("first", "again"):
        done = run(*plant, "--cache", tmp_path / "kept", "--out", tmp_path / name)
        assert ("encoder" in done.json["seconds"]) == (name == "first")
    assert len(list((tmp_path / "kept").iterdir())) == 1
    assert not standard_cache.exists()


def test_a_chosen_folder_that_cannot_be_written_to_is_refused(run, plant, tmp_path):
    (tmp_path / "file").write_text("")
    done = run(*plant, "--cache", tmp_path / "file", "--out", tmp_path / "v")
    assert done.code == 2 and "is a file, not a folder" in done.errors[0]


def test_without_a_user_s_folder_nothing_is_kept(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(keeping, "standard", lambda: tmp_path / "file")
    assert keeping.folder(None) is None
    with pytest.raises(OutputError):
        keeping.folder(tmp_path / "file")


@pytest.mark.parametrize(
    ("platform", "place"),
    [
        ("linux", "xdg/unbackdoor/learned"),
        ("darwin", "home/Library/Caches/unbackdoor/learned"),
        ("win32", "local/unbackdoor/learned"),
    ],
)
def test_the_standard_folder_is_the_platform_s(platform, place, monkeypatch, tmp_path):
    for name, folder in {"XDG_CACHE_HOME": "xdg", "LOCALAPPDATA": "local", "HOME": "home"}.items():
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.setattr(sys, "platform", platform)
    assert standard() == tmp_path / Path(place)
