"""How well scanners tell backdoored models from clean ones."""

from __future__ import annotations

import pytest

from report.bench_samples import folder
from unbackdoor.bench.store import FORMAT, Store
from unbackdoor.report import detection, results, site
from unbackdoor.report.detection import Detection, Look, auc_interval

PLACE = ("cifar10", "net", "latent", 500.0)


def look(score, *, attacked=True, weak=False, suspect=0, target=0, status="done"):
    return Look("x", PLACE, "badnets", 0, attacked, status, score, suspect, target, weak, 2.0)


def detected(bad, clean, **more):
    return Detection(
        PLACE, [look(s, **more) for s in bad] + [look(s, attacked=False) for s in clean]
    )


def test_the_auc_counts_pairs_and_a_tie_is_half():
    assert detected([3.0, 1.0], [0.0, 2.0]).auc == 0.75
    assert detected([1.0], [1.0]).auc == 0.5
    assert detected([1.0], []).auc is None and detected([], [1.0]).auc is None


def test_the_interval_of_the_auc_is_newcombes():
    # Where the AUC is 1, the standard error of Hanley and McNeil is 0 there, but not below it.
    low, high = auc_interval(1.0, 10, 20)
    assert high == 1.0 and 0.75 < low < 0.95
    assert auc_interval(1.0, 100, 200)[0] > low
    low, high = auc_interval(0.5, 30, 30)
    assert low == pytest.approx(1 - high, abs=1e-6) and 0.35 < low < 0.4
    assert auc_interval(0.0, 10, 20) == pytest.approx((0.0, 1 - auc_interval(1.0, 10, 20)[0]))


def test_detections_are_counted_above_all_but_one_in_a_hundred_clean_models():
    few = detected([3.0, 3.5, 1.0], [1.0, 2.0, 3.0])  # as high as a clean one is not above it
    assert few.threshold == 3.0 and (few.found.hits, few.found.total) == (1, 3)
    many = detected([98.5, 97.5], [float(i) for i in range(100)])
    assert many.threshold == 98.0 and many.found.hits == 1


def test_the_right_class_is_counted_among_those_found_and_weak_ones_apart():
    wrong = detected([5.0, 5.0, 0.0], [1.0], suspect=1)
    assert (wrong.right.hits, wrong.right.total) == (0, 2)
    none = detected([5.0], [1.0], target=None)
    assert none.right is None and none.found.hits == 1
    weak = detected([5.0], [1.0], weak=True)
    assert weak.found is None and weak.auc is None and weak.weak.hits == 1


def test_failed_and_missing_looks_count_as_neither():
    one = Detection(PLACE, [look(9.0, status="failed"), look(9.0, status="missing"), look(2.0)])
    assert one.count("failed") == 1 and one.count("missing") == 1 and len(one.backdoored) == 1


def test_the_roc_curve_ends_in_the_corners():
    roc = detected([3.0, 1.0], [0.0, 2.0]).roc
    assert roc[0] == (0.0, 0.0) and roc[-1] == (1.0, 1.0) and (0.0, 0.5) in roc


def scanned(path):
    """Results of a bench, and a scan of each of its models: `<b>` is a scanner with a rude name."""
    folder(path, seeds=2)
    store = Store(path)
    for record in list(store.all("victims")):
        victim = record["victim"]
        told = {
            **{key: record[key] for key in ("threads", "device", "precision", "versions")},
            **{key: record[key] for key in ("machine", "unbackdoor", "started", "peak_mib")},
            **{"format": FORMAT, "kind": "scan", "id": "s" + record["id"], "warnings": []},
            **{"victim": record["id"], "status": "done", "flags": [], "spent": {"scan": 1.5}},
            "scan": {"victim": victim, "scanner": {"name": "<b>"}, "budget": 500},
            **{"score": 5.0 if victim["attack"] else 1.0, "suspect": 0, "classes": [1.0, 0.0]},
        }
        store.write("scans", told["id"], told)
    return path


def test_the_site_shows_scanners_and_escapes_them(tmp_path):
    found = results.read(scanned(tmp_path / "bench"))
    (one,) = found.detections
    assert one.auc == 1.0 and one.right.value == 1.0
    written = site.write(found, tmp_path / "site")
    assert {"tables/scanners.md", "tables/scans.csv"} <= set(written)
    page = (tmp_path / "site" / "scanners.html").read_text()
    assert "&lt;b&gt;" in page and "<b>," not in page and "AUC 1.00" in page
    assert "scanners.html" in (tmp_path / "site" / "index.html").read_text()
    lines = (tmp_path / "site" / "tables" / "scans.csv").read_text().splitlines()
    assert len(lines) == 1 + len(one.looks)


def test_a_bench_without_scanners_has_no_such_page(tmp_path):
    found = results.read(folder(tmp_path / "bench", seeds=1))
    site.write(found, tmp_path / "site")
    assert not (tmp_path / "site" / "scanners.html").exists()
    assert detection.markdown(found.detections) == ""
