"""Results that are none: of another format, or without what pages need."""

from __future__ import annotations

import json
import shutil

import pytest

from report import bench_samples
from unbackdoor.cli import main
from unbackdoor.core.errors import ParameterError, UnbackdoorWarning
from unbackdoor.report import records, results, site


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return bench_samples.folder(folder, attacks=("badnets",), seeds=2)


@pytest.fixture
def broken(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "broken")


def first(folder, kind, status=None):
    """The first record of a kind, and its file."""
    for path in sorted((folder / kind).glob("*.json")):
        record = json.loads(path.read_text())
        if status in (None, record.get("status")):
            return path, record
    raise AssertionError(f"no {kind} that {status}")


def test_records_of_another_format_are_left_out_with_one_line(broken, capsys):
    every = list(broken.glob("*/*.json"))
    path, record = first(broken, "cells")
    path.write_text(json.dumps({**record, "format": 2}))
    (broken / "cells" / "nothing.json").write_text("{}")
    path, record = first(broken, "victims")
    path.write_text(json.dumps({**record, "format": None}))
    assert main(["report", str(broken), "--json"]) == 0
    told = capsys.readouterr()
    (line,) = [line for line in told.err.splitlines() if line.startswith("warning")]
    assert f"3 of {len(every) + 1} records" in line and "not of format 1" in line
    with pytest.warns(UnbackdoorWarning, match="3 of"):
        found = results.read(broken)
    assert len(found.cells) == len(list((broken / "cells").glob("*.json"))) - 2


def test_a_folder_of_another_format_alone_holds_no_results(tmp_path):
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "a.json").write_text("{}")
    with (
        pytest.warns(UnbackdoorWarning, match="1 of 1"),
        pytest.raises(ParameterError, match="no "),
    ):
        results.read(tmp_path)


@pytest.mark.parametrize(
    ("kind", "status", "field"),
    [
        ("cells", "done", "id"),
        ("cells", "done", "cell.victim.seed"),
        ("cells", "done", "cell.victim"),
        ("cells", "done", "after"),
        ("cells", "done", "images.stamped"),
        ("cells", "failed", "traceback"),
        ("cells", "done", "machine.cpu"),
        ("victims", "done", "victim.data.name"),
        ("victims", "done", "classes"),
        ("plan", None, "cells"),
    ],
)
def test_a_record_without_a_field_is_one_clear_line(broken, capsys, kind, status, field):
    path, record = first(broken, kind, status)
    *tables, name = field.split(".")
    found = record
    for part in tables:
        found = found[part]
    del found[name]
    path.write_text(json.dumps(record))
    assert main(["report", str(broken)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line and field in line and "Traceback" not in line


@pytest.mark.parametrize("status", ["begun", [], None])
def test_a_status_that_is_none_is_no_result(broken, status):
    path, record = first(broken, "cells")
    path.write_text(json.dumps({**record, "status": status}))
    with pytest.raises(ParameterError, match="status that is done or failed"):
        records.read(broken)


def test_a_done_cell_of_a_victim_that_failed_since_is_drawn(broken, tmp_path):
    path, record = first(broken, "victims", "done")
    for name in ("score", "classes", "examples"):
        del record[name]
    path.write_text(json.dumps({**record, "status": "failed"}))
    site.write(results.read(broken), tmp_path / "site")


def only(record, names):
    """The record with no other fields than `names`, in which a dot leads into a table."""
    found = {"format": record["format"]}
    for name in names:
        *tables, last = name.split(".")
        old, new = record, found
        for part in tables:
            old, new = old[part], new.setdefault(part, {})
        new[last] = old[last]
    return found


def test_pages_need_no_field_that_is_not_checked(broken, tmp_path):
    for kind, names in records.NEEDED.items():
        for path in (broken / kind).glob("*.json"):
            record = json.loads(path.read_text())
            more = records.BY_END.get((kind, record.get("status")), ())
            path.write_text(json.dumps(only(record, (*names, *more))))
    site.write(results.read(broken), tmp_path / "site")
    assert len(list((tmp_path / "site" / "cells").glob("*.html"))) > 5


def test_the_time_of_a_resumed_repair_is_not_told(broken):
    path, record = first(broken, "cells", "done")
    path.write_text(json.dumps({**record, "spent": {**record["spent"], "resumed": True}}))
    found = {row.id: row.seconds for row in results.read(broken).rows if row.id in record["id"]}
    assert found == {record["id"]: None}
    others = [row for row in results.read(broken).rows if row.status == "done" and row.der]
    assert sum(row.seconds is None for row in others) == 1
    site.write(results.read(broken), broken / "site")
    page = (broken / "site" / "cells" / f"{record['id']}.html").read_text()
    assert ", of its last part" in page and "Resumed" not in page
