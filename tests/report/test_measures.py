"""Measures, controls and the summary in tables and on pages, from result files alone."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest

from report import bench_samples
from report.test_browser import browser, column, opened
from report.test_page import Reader
from report.test_spread import ROW
from unbackdoor.bench.store import Store
from unbackdoor.report import results, site, summary, tables
from unbackdoor.report.spread import group

__all__ = ["browser", "opened"]
RATE = bench_samples.rate


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Results with all measures, two attacks, and a control."""
    path = tmp_path_factory.mktemp("measured") / "results"
    defenses = ("fine_tuning", "fmp", {"name": "clp", "control": True})
    bench_samples.folder(path, attacks=("badnets", "wanet"), defenses=defenses, seeds=2)
    store = Store(path)
    for record in store.all("victims"):
        if record["victim"]["attack"]:
            limit = {"asr": RATE(0.02, 9000), "ra": RATE(0.9, 9000)}
            told = {"clean_model": "x", "limit": limit, "existence": 0.2}
            record["measures"] = {**told, "reactivation": RATE(0.3, 8000)}
            store.write("victims", record["id"], record)
    for record in store.all("cells"):
        if record["status"] == "done" and record["cell"]["victim"]["attack"]:
            gone = record["cell"]["defense"]["name"] != "fine_tuning"
            wakes = {"badnets": 0.4, "wanet": 0.8}[record["cell"]["victim"]["attack"]["name"]]
            told = {"reactivation": RATE(wakes, 8000), "existence": 0.6}
            told["agreement"] = {"clean": RATE(0.9, 8000), "stamped": RATE(0.7, 8000)}
            record["measures"] = {**told, "coverage": RATE(0.25, 40) if gone else None}
            store.write("cells", record["id"], record)
    return path


@pytest.fixture(scope="module")
def pages(measured):
    out = measured.parent / "site"
    site.write(results.read(measured), out)
    return out


def test_a_row_has_what_was_measured_of_it_and_of_its_clean_model(measured):
    rows = results.read(measured).rows
    row = next(row for row in rows if row.attacked and row.defense == "fmp" and row.asr)
    assert (row.limit_asr, row.limit_ra, row.coverage) == (0.02, 0.9, 0.25)
    assert (row.agreement, row.agreement_stamped) == (0.9, 0.7)
    assert row.existence == pytest.approx((0.6 - 0.2) / (1 - 0.2))
    before = next(row for row in rows if row.attacked and row.defense == "none")
    assert before.limit_reactivation == row.limit_reactivation == 0.3
    assert before.reactivation is None and before.existence is None
    clean = next(row for row in rows if not row.attacked and row.acc)
    assert clean.limit_ra is None and clean.limit_reactivation is None


@pytest.mark.parametrize(
    ("own", "clean", "found"), [(0.1, 0.2, 0), (1.0, 0.2, 1), (0.5, 1.0, None), (None, 0.2, None)]
)
def test_existence_is_none_where_a_clean_model_is_as_like(own, clean, found):
    told = results._measures({"existence": own}, {"existence": clean})
    assert told["existence"] == found


def test_results_without_measures_have_no_such_columns(folder, measured):
    plain, more = (tables.columns(results.read(path).rows) for path in (folder, measured))
    assert set(more) - set(plain) == {*results.MEASURES, "control"} and set(plain) < set(more)
    head = next(csv.reader(io.StringIO(tables.groups_csv(results.read(folder).rows))))
    assert not set(head) & set(results.MEASURES) and "seconds_n" in head
    head = next(csv.reader(io.StringIO(tables.groups_csv(results.read(measured).rows))))
    assert {"reactivation", "reactivation_low", "coverage_n"} <= set(head)


def row(defense, victim=0, **more):
    told = {"limit_asr": 0.1, "limit_ra": 0.8, "defense": defense, "seed": victim}
    return replace(ROW, **{**told, **more})


ROWS = [
    row("none", acc=0.9, asr=1.0, ra=0.0, seconds=None, limit_reactivation=0.3),
    row("none", 1, acc=0.8, asr=0.9, ra=0.1, seconds=None, limit_reactivation=0.5),
    row("fine_tuning", acc=0.9, asr=0.5, ra=0.4, seconds=10.0),
    row("fine_tuning", 1, acc=0.8, asr=0.7, ra=0.2, seconds=20.0),
    row("fmp", acc=0.88, asr=0.05, ra=0.7, seconds=30.0, reactivation=0.9, coverage=0.5),
    row("fmp", 1, acc=0.74, asr=0.25, ra=0.6, seconds=20.0, reactivation=0.7, coverage=0.0),
    row("fmp", 2, status="failed", acc=None, asr=None, ra=None, seconds=None),
    row("oracle (control)", control=True, acc=0.9, asr=0.0, ra=0.8, seconds=5.0),
    row("fmp", 0, attack="none", acc=0.5, asr=None, ra=None),
]


def test_the_summary_is_counted_by_hand():
    head, *lines = summary.table(ROWS)
    assert head == [
        *("method", "cells", "ACC lost", "ASR", "worst ASR", "ASR below 10", "RA below limit"),
        *("ASR re-activated", "coverage", "time"),
    ]
    dash = summary.DASH
    assert lines == [
        ["no defense", "2", dash, "95.0", "100.0", "0 of 2", "75.0", dash, dash, dash],
        ["clean model", "2", dash, "10.0", "10.0", "0 of 2", dash, "40.0", dash, dash],
        ["fine_tuning", "2", "0.0", "60.0", "70.0", "0 of 2", "50.0", dash, dash, "1.00"],
        ["fmp", "2", "4.0", "15.0", "25.0", "1 of 2", "15.0", "80.0", "25.0", "2.00"],
        ["oracle (control)", "1", "0.0", "0.0", "0.0", "1 of 1", "0.0", dash, dash, "0.50"],
    ]


def test_an_undone_repair_is_marked_and_has_no_measures_of_its_own():
    gone = replace(ROWS[4], flags=("destroyed",), reactivation=None)
    head, *lines = summary.table([*ROWS[:4], gone, *ROWS[5:]])
    assert [line[head.index("undone")] for line in lines] == [
        *[summary.DASH] * 3,
        "1",
        summary.DASH,
    ]
    one, both = tables.markdown([gone]), tables.markdown([gone, replace(ROWS[5], asr=0.05)])
    assert "(n=1, undone)" in one and "(n=2, 1 undone)" in both
    told = {"reactivation": RATE(0.9, 8000), "existence": 1.0, "coverage": RATE(0.25, 40)}
    for flag, left in (("destroyed", 1), ("unchanged", 1), ("leak", 3)):
        assert len(results._own({"flags": [flag], "measures": told})) == left


def test_budgets_are_lines_of_their_own_and_times_are_those_of_the_same_budget():
    more = [
        row("none", budget=500, asr=1.0, seconds=None),
        row("fine_tuning", budget=500, seconds=1.0),
        row("fmp", budget=500, seconds=4.0),
    ]
    lines = {line[0].replace("\xa0", " "): line for line in summary.table([*ROWS, *more])[1:]}
    assert lines["fmp, 500 clean images"][-1] == "4.00"
    assert lines["fmp, 5 % clean images"][-1] == "2.00"


def test_without_an_attack_there_is_no_summary():
    assert summary.table([row("fmp", attack="none", asr=None)]) == []
    assert summary.table([]) == []


def test_the_summary_is_written_for_all_and_for_each_data_set(measured, pages, drawn):
    text = (pages / "tables" / "summary.md").read_text()
    assert text.startswith("## cifar10\n\n| method | cells | ACC lost |") and "| clp (cont" in text
    assert text.count("\n## ") == 0
    both = (drawn / "tables" / "summary.md").read_text()
    assert both.startswith("## All data sets\n") and both.count("\n## ") == 2


def test_pages_explain_measures_and_controls_where_there_are_any(pages, drawn):
    told, plain = (
        Reader((path / "index.html").read_text(encoding="utf-8")).text for path in (pages, drawn)
    )
    for term in ("Backdoor existence coefficient", "(control)", "a clean model on the same"):
        assert term in told and term not in plain
    board = Reader((pages / "data-cifar10.html").read_text(encoding="utf-8")).text
    assert "ASR re-activated" in board and "clp (control)" in board and "Summary" in board


def test_the_page_of_a_cell_tells_its_measures(measured, pages, folder, drawn):
    cell = next(row for row in results.read(measured).rows if row.defense == "fmp" and row.asr)
    text = Reader((pages / "cells" / f"{cell.id}.html").read_text(encoding="utf-8")).text
    text = text.replace("\xa0", " ")
    assert "Existence 50.0 %" in text and "Limit re-activated 30.0 %" in text
    other = next(row for row in results.read(folder).rows if row.defense == "clp" and row.asr)
    page = (drawn / "cells" / f"{other.id}.html").read_text(encoding="utf-8")
    assert "Other measures" not in page


def test_filters_count_the_measures_again(opened, measured, pages):
    page = opened("data-cifar10.html", pages)
    heads = page.eval_on_selector_all("#board th[aria-sort]", "all => all.map(h => h.innerText)")
    place = [head.lower() for head in heads].index("asr re-activated")
    names = column(page, "board", 0)
    mean = float(column(page, "board", place)[names.index("fmp")])
    page.select_option("[data-filter=attack]", "wanet")
    own = [
        row for row in results.read(measured).rows if row.attack == "wanet" and row.defense == "fmp"
    ]
    now = column(page, "board", place)[column(page, "board", 0).index("fmp")]
    assert float(now) == pytest.approx(group(own).reactivation.mean) == 0.8 and mean < 0.8
    line = page.locator("#board tbody tr", has_text="fmp").first
    assert line.locator("td").nth(len(heads) - 3).inner_text().strip().endswith("s")
