import pytest

from report.samples import rate
from unbackdoor.core import measure
from unbackdoor.report import rates
from unbackdoor.report.rates import SPACE, Share


@pytest.mark.parametrize(("hits", "total"), [(0, 10), (8, 10), (10, 10), (117, 9000)])
def test_the_interval_is_that_of_the_measuring_room(hits: int, total: int) -> None:
    assert Share(hits, total).interval == pytest.approx(measure.Rate(hits, total).interval())


def test_a_rate_that_counted_nothing_is_none() -> None:
    assert rates.share({"asr": rate(0, 0)}, "asr") is None
    assert rates.share({"asr": None}, "asr") is None
    assert rates.share(None, "asr") is None
    assert rates.share({"asr": rate(3, 4)}, "asr") == Share(3, 4)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.0 %"),
        (0.0001, "< 0.1 %"),
        (0.01349, "1.3 %"),
        (0.9999, "> 99.9 %"),
        (1, "100.0 %"),
    ],
)
def test_percent_never_rounds_to_none_or_all(value: float, text: str) -> None:
    assert rates.percent(value) == text.replace(" ", SPACE)


def test_points_carry_a_sign_unless_nothing_changed() -> None:
    assert [rates.points(x) for x in (0.012, -0.974, -0.0001, 0)] == ["+1.2", "−97.4", "0.0", "0.0"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.42, "0.42 s"),
        (12.34, "12.3 s"),
        (59.97, "1 min 00 s"),
        (252, "4 min 12 s"),
        (3785, "1 h 03 min"),
    ],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert rates.duration(seconds) == text.replace(" ", SPACE)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.3, "30 %"),
        (0.07, "7 %"),
        (0.0025, "0.25 %"),
        (1, "1"),
        (2500, "2,500"),
        (2500.0, "2,500"),
    ],
)
def test_a_budget_below_one_is_a_share(value: float, text: str) -> None:
    assert rates.budget(value) == text.replace(" ", SPACE)


def test_half_of_an_interval_ends_where_it_tells_nothing() -> None:
    assert [rates.half(value) for value in (0.0123, 0.4999, 0.5, 1.7)] == [
        *("1.2", "50.0", "50+", "50+")
    ]
