import math

from unbackdoor.report import pictures


def layer(scores: list[float | None], silenced: list[int]) -> dict[str, object]:
    return {"name": "conv", "channels": len(scores), "silenced": silenced, "scores": scores}


def test_neighbours_in_a_strip_are_drawn_as_one() -> None:
    (strip,) = pictures.strips([layer([0.0] * 8, [5, 2, 3])])
    assert strip.path == "M2 0h2v1h-2zM5 0h1v1h-1z"
    assert strip.silenced == (2, 3, 5)
    assert strip.count == 3


def test_ranges_join_neighbours() -> None:
    assert pictures.ranges([9, 3, 7, 8, 12]) == "3, 7–9, 12"
    assert pictures.ranges([]) == ""


def test_a_histogram_follows_the_grid_of_its_scores() -> None:
    (drawn,) = pictures.histograms([layer([0.25, 0.5, 0.5, 1.0], [0])], log=False)
    assert drawn.bins == 4  # quarters from 0.25 to 1, each in the middle of its bin
    assert drawn.bars == "M1 1v-1h1V1zM3 1v-0.5h1V1z"
    assert drawn.ticks == "M0.5 0v1"
    assert (drawn.low, drawn.high) == ("0.25", "1")


def test_scores_that_are_no_numbers_are_counted_and_left_out() -> None:
    (drawn,) = pictures.histograms([layer([1.0, 2.0, math.inf, None, math.nan], [2])], log=False)
    assert drawn.unranked == 3
    assert drawn.ticks == ""
    assert drawn.high == "2"


def test_unranked_layers_have_no_histogram() -> None:
    unranked = {"name": "a", "channels": 2, "silenced": [0], "scores": None}
    assert pictures.histograms([unranked, layer([math.nan], [])], log=False) == []


def test_equal_scores_make_one_bar() -> None:
    (drawn,) = pictures.histograms([layer([0.5, 0.5, 0.5], [])], log=False)
    assert (drawn.bins, drawn.bars) == (1, "M0 1v-1h1V1z")


def test_only_far_outliers_make_the_axis_logarithmic() -> None:
    assert not pictures.logarithmic([layer([1.0, 2.0, 3.0], [])])
    assert pictures.logarithmic([layer([1.0, 2.0, 100.0], [])])
    assert not pictures.logarithmic([layer([0.0, 2.0, 100.0], [])])
    assert not pictures.logarithmic([layer([math.nan], [])])


def test_every_kept_channel_is_in_a_bar_whatever_the_axis() -> None:
    scores: list[float | None] = [math.exp(n / 7) for n in range(500)]
    for log in (False, True):
        (drawn,) = pictures.histograms([layer(scores, [499])], log)
        assert drawn.bins == pictures.BINS
        assert drawn.ticks == f"M{pictures.BINS} 0v1"
        assert drawn.bars.startswith("M0 1")
