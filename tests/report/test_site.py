"""The pages and tables of a bench's results, made up; in a browser in test_browser.py."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from report import bench_samples
from report.test_page import Reader
from report.test_spread import rows
from unbackdoor.core.errors import ParameterError
from unbackdoor.report import board, cellpage, results, site, tables, templating


def test_every_page_is_well_formed_and_every_link_leads_somewhere(drawn):
    pages = sorted(drawn.rglob("*.html"))
    assert len(pages) > 100
    for page in [*pages[::7], drawn / "index.html", drawn / "data-b-2.html"]:
        for tag, attributes in Reader(page.read_text(encoding="utf-8")).tags:
            for key in ("href", "src"):
                link = attributes.get(key)
                if link and not link.startswith(("#", "data:")):
                    assert "://" not in link and (page.parent / link).exists(), (page, tag, link)


def test_kinds_of_a_method_have_names_of_their_own(folder):
    found = {row.defense for row in results.read(folder).rows}
    assert found == {"none", "fine_tuning", "fmp p=32", "fmp p=64", "clp"}


def test_failed_and_missing_cells_are_there_to_see(folder, drawn):
    found = results.read(folder)
    cells = [row for row in found.rows if row.defense != "none"]
    assert {row.status for row in cells} == {"done", "failed", "missing"}
    text = Reader((drawn / "data-cifar10.html").read_text(encoding="utf-8")).text
    assert re.search(r"\d+ failed", text) and re.search(r"\d+ missing", text)
    failed = next(row for row in cells if row.status == "failed")
    page = (drawn / "cells" / f"{failed.id}.html").read_text(encoding="utf-8")
    assert "out of memory &lt;b&gt;&amp;" in page and "Traceback" in page


@pytest.mark.parametrize(("hits", "destroyed"), [(3799, True), (3800, False)])
def test_a_model_below_a_linear_one_is_destroyed_whatever_its_asr(folder, hits, destroyed):
    found = results.read(folder)
    row = next(row for row in found.rows if row.asr and row.defense != "none")
    record = dict(found.cells[row.id])
    assert record["linear"]["hits"] == 3800
    record["after"] = {**record["after"], "acc": {"hits": hits, "total": 10_000}}
    told = cellpage.cell_context(row, record, found.victims[record["victim"]], [])["verdict"]
    assert ("destroyed the model" in told.headline) == destroyed


def test_a_flag_says_what_it_means_and_what_to_do(drawn):
    text = Reader((drawn / "data-cifar10.html").read_text(encoding="utf-8")).text
    assert "No weight changed. The defense changed nothing. Use stronger" in text


@pytest.mark.parametrize(("seeds", "told"), [(2, "4 means"), (3, None)])
def test_the_front_page_tells_of_means_over_few_seeds(tmp_path, seeds, told):
    small = {"attacks": ("badnets",), "defenses": ("fine_tuning",), "data": ("b-2",)}
    made = results.read(bench_samples.folder(tmp_path, seeds=seeds, **small))
    site.write(made, tmp_path / "site")
    text = Reader((tmp_path / "site" / "index.html").read_text(encoding="utf-8")).text
    assert ("Fewer than three seeds" in text) == bool(told)
    assert not told or f"Fewer than three seeds {told} The spread" in text


def test_pages_say_budgets_as_shares_and_what_was_learned_of_what(folder, drawn):
    cell = next(
        row
        for row in results.read(folder).rows
        if row.budget == 0.05 and row.attacked and row.defense != "none"
    )
    names = ("data-cifar10.html", "methods/defense-clp.html", f"cells/{cell.id}.html")
    texts = [Reader((drawn / name).read_text(encoding="utf-8")).text for name in names]
    assert all(" 5 %" in text and " 0.05 0.05" not in text for text in texts)
    assert "Learned, relabelled 99.0 % of its" in texts[2] and "Learned, clean 97.0 %" in texts[2]


def test_backticks_in_the_texts_of_methods_are_code():
    assert templating.code("at most `a<b` and c") == "at most <code>a&lt;b</code> and c"


def test_every_flag_is_in_the_documentation():
    from unbackdoor.bench.flags import FLAGS

    limits = (Path(__file__).parents[2] / "docs" / "limits.md").read_text(encoding="utf-8")
    for name, flag in FLAGS.items():
        assert f"`{name}`" in limits and flag.title in limits


def test_tables_hold_every_cell(folder, drawn):
    found = results.read(folder)
    lines = list(csv.DictReader(io.StringIO((drawn / "tables/cells.csv").read_text())))
    assert len(lines) == len(found.rows)
    done = next(line for line in lines if line["status"] == "done" and line["asr"])
    assert 0 <= float(done["asr"]) <= 1
    groups = list(csv.DictReader(io.StringIO((drawn / "tables/groups.csv").read_text())))
    assert {int(line["done"]) + int(line["failed"]) + int(line["missing"]) for line in groups} == {
        3
    }
    pq = pytest.importorskip("pyarrow.parquet")
    assert pq.read_table(drawn / "tables/cells.parquet").num_rows == len(lines)


def test_markdown_and_latex_show_mean_interval_and_n(folder):
    shown = [row for row in results.read(folder).rows if row.data == "cifar10"]
    found = tables.markdown(shown)
    assert found.splitlines()[2].startswith("| none | 9")
    triple = " / ".join([r"\d+\.\d ± \d+\.\d"] * 3)
    assert re.search(rf"\n\| clp \| .*{triple} \(n=3\) \|", found)
    latex = tables.latex(shown)
    assert r"fine\_tuning & " in latex and r"$\pm$" in latex and latex.count(r"\\") == 6
    assert r"rate 0.05, clean~5~\%)" in latex and ", clean~2,500)" in latex


def test_an_interval_that_tells_nothing_is_as_wide_in_tables_as_on_pages():
    given = rows(0.1, 0.9, defense="fmp")  # Student's interval of two is 5 to each side
    assert " / 50.0 ± 50+ / " in tables.markdown(given)
    assert r" / 50.0 $\pm$ 50+ / " in tables.latex(given)


def test_rows_for_the_script_cannot_end_it(folder, monkeypatch):
    shown = board.Board("x", results.read(folder).rows[:3])
    evil = [row.__class__(**{**vars(row), "defense": "</script><b>"}) for row in shown.rows]
    told = board.Board("x", evil).for_script
    assert "<" not in told and json.loads(told)["rows"][0][0] == "</script><b>"


def test_what_holds_no_results_is_refused(tmp_path):
    with pytest.raises(ParameterError, match="holds no results"):
        results.read(tmp_path)


def test_drawing_needs_no_torch(folder, tmp_path):
    code = (
        "import sys; from unbackdoor.cli import main\n"
        "assert main(['report', *sys.argv[1:], '--json']) == 0\n"
        "assert 'torch' not in sys.modules"
    )
    argv = [sys.executable, "-c", code, str(folder), "--out", str(tmp_path / "site")]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["cells"] == told["done"] + told["failed"] + told["missing"]
    assert told["data"] == ["b-2", "cifar10"] and "index.html" in told["files"]
