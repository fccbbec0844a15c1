"""What differs is told apart: by its name, in its groups, and by the names of its files."""

from __future__ import annotations

import pytest

from report import bench_samples
from report.test_page import Reader
from unbackdoor.report import board, charts, results, site
from unbackdoor.report.spread import groups

SMALL = {"attacks": ("badnets",), "defenses": ("clp",), "seeds": 2}


def made(folder, *kinds):
    """The rows of a folder that holds a grid of each of the `kinds`."""
    for kind in kinds:
        bench_samples.folder(folder, **{**SMALL, **kind})
    return results.read(folder).rows


def digits(**more):
    return {"data": ({"name": "digits", **more},)}


def badnets(**more):
    return {"attacks": ({"name": "badnets", **more},)}


@pytest.mark.parametrize(
    ("kinds", "field", "names"),
    [
        ([digits(size=16), digits(size=32)], "data", ["digits size=16", "digits size=32"]),
        ([digits(), digits(reserve=0.3)], "data", ["digits", "digits reserve=0.3"]),
        (
            [{"epochs": 10}, {"epochs": 20}],
            "attack",
            ["badnets epochs=10", "badnets epochs=20", "none epochs=10", "none epochs=20"],
        ),
        (
            [{"precision": "bf16"}, {"precision": "fp32"}],
            "arch",
            ["preact_resnet18 precision=bf16", "preact_resnet18 precision=fp32"],
        ),
        (
            [{"widths": (16, 64)}],
            "arch",
            ["preact_resnet18 width=16", "preact_resnet18 width=64"],
        ),
        (
            [badnets(size=3), badnets(size=5)],
            "attack",
            ["badnets size=3", "badnets size=5", "none"],
        ),
        ([badnets(), badnets(count=50)], "attack", ["badnets", "badnets count=50", "none"]),
        (  # told the same way, and yet another cell
            [badnets(count=50, rate=rate) for rate in (0.1, 0.2)],
            "attack",
            ["badnets count=50", "badnets count=50 kind=2", "none"],
        ),
    ],
)
def test_what_differs_has_a_name_of_its_own_and_is_no_seed(tmp_path, kinds, field, names):
    rows = made(tmp_path, *kinds)
    assert sorted({getattr(row, field) for row in rows}) == names
    for group in groups(rows):
        assert sorted(row.seed for row in group.rows) == [0, 1], group.first


def test_a_field_that_differs_between_data_sets_only_is_not_told(tmp_path):
    rows = made(tmp_path, {**digits(), "epochs": 10}, {"epochs": 20})
    assert {row.attack for row in rows} == {"badnets", "none"}


def test_models_that_were_never_attacked_stay_what_they_are_under_any_name(tmp_path):
    rows = made(tmp_path, {"epochs": 10}, {"epochs": 20})
    assert {row.attack: row.attacked for row in rows} == {
        "badnets epochs=10": True,
        "badnets epochs=20": True,
        "none epochs=10": False,
        "none epochs=20": False,
    }
    shown = board.Board("cifar10", rows)
    names = {"badnets epochs=10", "badnets epochs=20"}
    assert {name for name, _ in shown.options["attack"]} == names
    assert {column.attack for column in shown.heat.columns} == names
    assert {line.clean.n for line in shown.standings} == {2}


def test_an_attack_that_counts_its_images_has_no_rate(tmp_path):
    rows = made(tmp_path, {**badnets(), "rates": (0.05, 0.1)}, badnets(count=50))
    assert {(row.attack, row.rate) for row in rows} == {
        ("badnets", 0.05),
        ("badnets", 0.1),
        ("badnets count=50", None),
        ("none", None),
    }
    names = [(column.attack, column.rest) for column in charts.heat(groups(rows), []).columns]
    assert ("badnets count=50", "") in names and ("badnets", "rate 0.05") in names
    alone = made(tmp_path / "alone", badnets(count=50))
    assert {row.attack for row in alone} == {"badnets count=50", "none"}


def test_pages_of_kinds_of_a_data_set_have_files_of_their_own(tmp_path):
    evil = 'npz:/a/../b <i>&".npz'
    made(tmp_path, *(digits(train=source) for source in ("digits:train", evil, f"{evil}?")))
    out = tmp_path / "site"
    site.write(results.read(tmp_path), out)
    boards = sorted(path.name for path in out.glob("data-*.html"))
    assert len(boards) == 3 and all(name.startswith("data-digits-train-") for name in boards)
    assert len(list((out / "tables").glob("data-*.md"))) == 3
    for page in out.rglob("*.html"):
        reader = Reader(page.read_text(encoding="utf-8"))  # an <i> from the name would not nest
        for _, attributes in reader.tags:
            assert " " not in attributes.get("id", "")
            if (link := attributes.get("href", "#"))[0] != "#" and "data:" not in link:
                assert (page.parent / link).exists(), (page, link)


def test_a_plain_data_set_keeps_its_name_as_a_file(tmp_path):
    assert site._slug("b-2.x") == "data-b-2.x"
    names = {site._slug(name) for name in ("a b", "a  b", "a/b", "a-b")}
    assert len(names) == 4 and all("/" not in name and " " not in name for name in names)
