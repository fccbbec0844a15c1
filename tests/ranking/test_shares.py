"""Who stands apart: two clusters against every division there is, and outliers on both sides."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from unbackdoor.ranking.shares import outliers, smaller_cluster


def scatter(values: torch.Tensor, part: tuple[int, ...]) -> float:
    inside = torch.zeros(len(values), dtype=torch.bool)
    inside[list(part)] = True
    halves = (values[inside], values[~inside])
    return float(sum(((half - half.mean()) ** 2).sum() for half in halves))


@pytest.mark.parametrize("seed", range(20))
def test_clusters_leave_less_scatter_than_any_other_division(seed):
    values = torch.rand(7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 3
    divisions = [part for size in (1, 2, 3) for part in combinations(range(7), size)]
    best = min(divisions, key=lambda part: scatter(values, part))
    assert smaller_cluster(values).nonzero().flatten().tolist() == list(best)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.9, 0.1, 0.92, 0.88, 0.12], [1, 4]),
        ([0.1, 0.9, 0.08, 0.12, 0.88], [1, 4]),  # the smaller one, also where it is the better
        ([0.5, 0.5, 0.5], []),
        ([0.1, 0.9], []),  # two of the same size
        ([0.1, 0.9, 0.1, 0.9], []),
        ([0.4], []),
        ([0.0, 0.0, 0.0, 1.0, 0.0], [3]),
    ],
)
def test_the_smaller_cluster_is_marked_and_none_where_none_is_smaller(scores, expected):
    assert smaller_cluster(torch.tensor(scores)).nonzero().flatten().tolist() == expected


@pytest.mark.parametrize(
    ("count", "expected"), [(0, []), (1, [4]), (2, [2, 4]), (3, [2, 4, 0]), (9, range(5))]
)
def test_outliers_are_the_furthest_from_the_median_on_either_side(count, expected):
    scores = torch.tensor([0.6, 0.5, 0.9, 0.5, 0.0])
    assert set(outliers(scores, count).nonzero().flatten().tolist()) == set(expected)
