from __future__ import annotations

import math
from dataclasses import replace

import pytest

from unbackdoor.report.results import Row
from unbackdoor.report.spread import group, leaderboard, spread

ROW = Row("id", "digits", "net", "badnets", 0.1, "fmp", 0.05, 0, "done", 0.9, 0.2, 0.7, 0.8, 3.0)


def rows(*values, **more):
    return [replace(ROW, asr=value, seed=seed, **more) for seed, value in enumerate(values)]


def test_a_mean_of_one_group_has_students_interval():
    found = spread([[0.1, 0.2, 0.3]])
    assert found.n == 3 and found.mean == pytest.approx(0.2)
    assert found.half == pytest.approx(4.303 * 0.1 / math.sqrt(3))
    assert spread([[0.4]]).half is None and spread([[], []]) is None


def test_every_attack_counts_the_same_and_the_spread_within_is_pooled():
    found = spread([[0.1, 0.3], [0.5, 0.5, 0.5, 0.5]])
    assert found.mean == pytest.approx((0.2 + 0.5) / 2) and found.n == 2
    # Squares 0.02 over 1 + 3 degrees of freedom; shares (1/2 + 1/4) / 4.
    assert found.half == pytest.approx(2.776 * math.sqrt(0.02 / 4 * 0.75 / 4))


def test_failed_and_missing_cells_are_counted_and_have_no_number():
    found = group([*rows(0.1, 0.3), replace(ROW, status="failed", asr=None, seed=2)])
    assert found.asr.mean == pytest.approx(0.2) and found.n == 2
    assert (found.count("done"), found.count("failed"), found.count("missing")) == (2, 1, 0)
    assert found.flags == ["few-seeds"] and not group(rows(0.1, 0.2, 0.3)).flags


def test_the_leaderboard_goes_by_der_and_clean_models_stand_apart():
    given = [
        *rows(0.1, defense="good", der=0.9),
        *rows(0.9, defense="bad", der=0.5),
        *rows(0.0, defense="broken", status="failed", der=None),
        *rows(0.99, defense="none", der=None),
        *rows(None, defense="good", attack="none", acc=0.95),
    ]
    board = leaderboard(given)
    assert [line.defense for line in board] == ["good", "bad", "broken", "none"]
    assert board[0].clean.acc.mean == 0.95 and board[0].attacked.acc.mean == 0.9
