from __future__ import annotations

import pytest

from unbackdoor.cli import output
from unbackdoor.core.errors import OutputError


def fill(out, *, fail=False):
    with output.written(out) as folder:
        (folder / "model").write_text("new")
        assert not (out / "model").exists() or (out / "model").read_text() == "old"
        if fail:
            raise RuntimeError("halfway")
        output.write_json(folder / output.RECORD, {"a": 1})


def test_the_folder_appears_whole(tmp_path):
    out = tmp_path / "a" / "b"
    fill(out)
    assert sorted(path.name for path in out.iterdir()) == ["model", "record.json"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    assert out.stat().st_mode & 0o777 == 0o777 & ~output._umask()


def test_a_failure_leaves_what_was_there(tmp_path):
    out = tmp_path / "a" / "b"
    with pytest.raises(RuntimeError, match="halfway"):
        fill(out, fail=True)
    assert list(tmp_path.iterdir()) == []
    out.mkdir(parents=True)
    (out / "model").write_text("old")
    with pytest.raises(RuntimeError, match="halfway"):
        fill(out, fail=True)
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [("model", "old")]


def test_a_stop_while_files_are_replaced_leaves_no_record(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    for name in ("model", output.RECORD):
        (tmp_path / "out" / name).write_text("old")
    replaced = []

    def replace(self, target):
        replaced.append(target.name)
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace", replace)
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "out")
    assert replaced == ["model"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model"]


def test_check_leaves_nothing_behind(tmp_path):
    output.check(tmp_path / "new" / "deep", force=False)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "training").mkdir()
    output.check(tmp_path / "half", force=False, spared="training")
    with pytest.raises(OutputError, match="not empty"):
        output.check(tmp_path / "half", force=False)
    output.check(tmp_path / "half", force=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["half", "training"]


@pytest.mark.parametrize("stop", [None, OutputError, KeyboardInterrupt])
def test_what_is_begun_outlives_a_stop_alone(stop, tmp_path):
    def work():
        with output.begun(tmp_path / "deep" / "out") as folder:
            folder.mkdir(parents=True)
            (folder / "kept").write_text("1")
            if stop:
                raise stop("now")

    if stop:
        with pytest.raises(stop):
            work()
    else:
        work()
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert left == (["kept"] if stop is KeyboardInterrupt else [])
    assert (tmp_path / "deep").exists() == (stop is not OutputError)
    with output.begun(tmp_path / "deep" / "out") as folder:
        assert [path.name for path in folder.glob("*")] == left
    assert not folder.exists()
