"""A data set on which nothing was attacked yet: clean models, and what repairs cost them."""

from __future__ import annotations

import re

import pytest

from report import bench_samples
from report.test_page import Reader
from report.test_spread import ROW, rows
from unbackdoor.report import results, site, tables
from unbackdoor.report.spread import leaderboard


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clean")
    return bench_samples.folder(folder, attacks=(), defenses=("clp", "anp"))


@pytest.fixture(scope="module")
def pages(clean, tmp_path_factory):
    out = tmp_path_factory.mktemp("pages")
    site.write(results.read(clean), out)
    return out


def test_every_page_is_drawn_and_none_shows_an_empty_map(pages):
    text = {
        name: (pages / name).read_text(encoding="utf-8")
        for name in ("index.html", "data-cifar10.html")
    }
    for page in text.values():
        assert Reader(page).tags
    board = text["data-cifar10.html"]
    assert 'class="heat"' not in board and 'id="leaderboard"' in board
    assert board.count('<td data-value=""><span class="none">–</span></td>') > 3
    assert "0/0" not in board
    assert "nothing was attacked here" in text["index.html"]
    assert re.search(r"<b>9\d\.\d</b>", text["index.html"])


def test_tables_show_the_clean_models(clean):
    found = results.read(clean).rows
    first, _, none, *more = tables.markdown(found).splitlines()
    assert first == "|  | clean model |" and len(more) == 2
    assert re.fullmatch(r"\| none \| 9\d\.\d ± \d\.\d / - / - \(n=3\) \|", none)
    latex = tables.latex(found)
    assert r"\begin{tabular}{lc}" in latex and r"Defense & clean model \\" in latex


def test_where_anything_was_attacked_clean_models_have_no_column(folder):
    found = [row for row in results.read(folder).rows if row.data == "cifar10"]
    assert "clean model" not in tables.markdown(found).splitlines()[0]


def test_defenses_go_by_what_they_leave_to_clean_models():
    given = [
        *rows(None, defense="dear", attack="none", acc=0.7, der=None),
        *rows(None, defense="cheap", attack="none", acc=0.9, der=None),
        ROW,
    ]
    assert [line.defense for line in leaderboard(given)] == ["fmp", "cheap", "dear"]
