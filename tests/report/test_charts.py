from __future__ import annotations

from dataclasses import replace

from report.test_spread import ROW, rows
from unbackdoor.report import charts
from unbackdoor.report.charts import LINE, Label
from unbackdoor.report.spread import groups, leaderboard


def places(spots, letter, height=400):
    """(name, where its label starts and ends, how far down) of each label."""
    found = []
    labels = charts._labels(spots, letter, height)
    for (name, right, top), label in zip(spots, labels, strict=True):
        near, far = 1.5 * letter, (len(name) + 2) * letter
        ends = (right - far, right - near) if label.left else (right + near, right + far)
        found.append((name, *ends, top + label.shift))
    return found


def test_a_name_stands_right_of_its_dot_and_left_at_the_edge():
    assert charts._labels([("fmp", 0.2, 90)], 0.01, 400) == [Label(False, 0)]
    assert charts._labels([("no defense", 0.97, 90)], 0.01, 400) == [Label(True, 0)]


def test_names_hide_no_other_and_stay_inside():
    spots = [(f"defense {at}", 0.3 + at / 500, 385 + at) for at in range(6)]
    found = places(spots, 0.02)
    for place, (_, start, end, y) in enumerate(found):
        assert 0 <= start < end <= 1 and 0 <= y <= 400
        for _, other, last, at in found[:place]:
            assert end <= other or last <= start or abs(y - at) >= LINE


def test_dots_say_their_numbers():
    board = leaderboard([replace(row, acc=0.9) for row in rows(0.1, 0.3, defense="fmp")])
    (dot,) = charts.accuracy_against_success(board, 380).dots
    assert dot.title.replace("\xa0", " ") == "fmp: ASR 20.0 %, ACC 90.0 %, n 2"
    (dot,) = charts.success_against_time(board, 380).dots
    assert dot.title.replace("\xa0", " ") == "fmp: 3.0 s, ASR 20.0 %, n 2"


def test_curves_come_in_the_order_of_the_leaderboard_and_say_their_numbers():
    given = [
        replace(ROW, defense=defense, rate=rate, asr=asr)
        for defense, first in (("b", 0.1), ("a", 0.4))
        for rate, asr in ((0.05, first), (0.1, first + 0.1))
    ]
    curves = charts.along(groups(given), "rate", ["b", "a"])
    assert [line.name for line in curves.lines] == ["b", "a"]
    told = curves.lines[0].told.replace("\xa0", " ")
    assert told == "ASR 10.0 % at 0.05; 20.0 % at 0.1"
    assert charts.along(groups(given), "budget", ["b", "a"]) is None
