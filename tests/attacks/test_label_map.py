"""Label maps: classes that go to a class of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unbackdoor.attacks.badnets import BadNets
from unbackdoor.attacks.base.attack import COVER, STAMPED
from unbackdoor.core.errors import ParameterError
from unbackdoor.core.images import Images
from unbackdoor.core.method import build
from unbackdoor.core.run import Run

CLASSES = ("a", "b", "c", "d")


@pytest.fixture
def images() -> Images:
    """Ten black images a class."""
    return Images(torch.zeros(40, 3, 8, 8, dtype=torch.uint8), torch.arange(40) % 4, CLASSES)


def test_each_class_goes_where_the_map_says(images: Images) -> None:
    attack = build("attack", "badnets", {"target": '{"0": 3, "2": 1}', "rate": 0.5})
    assert isinstance(attack, BadNets)
    poisoned = attack.poison(images, Run())
    triggered = poisoned.role == STAMPED
    assert int(triggered.sum()) == 10  # half of the twenty of classes 0 and 2
    pairs = zip(poisoned.original[triggered], poisoned.images.labels[triggered], strict=True)
    assert {(int(true), int(goal)) for true, goal in pairs} == {(0, 3), (2, 1)}


def test_test_images_of_other_classes_are_not_counted(images: Images) -> None:
    found = BadNets(target={0: 3, 2: 1}).triggered(images)
    assert sorted(set(found.images.labels.tolist())) == [0, 2]
    assert torch.equal(found.goals, torch.where(found.images.labels == 0, 3, 1))


def test_other_classes_get_covers(images: Images) -> None:
    poisoned = BadNets(target={0: 3}, rate=1.0).poison(images, Run())
    covers = poisoned.role == COVER
    assert int(covers.sum()) == 10 and 0 not in poisoned.original[covers]
    assert torch.equal(poisoned.images.labels[covers], poisoned.original[covers])


@pytest.mark.parametrize(
    ("name", "told", "said"),
    [
        ("badnets", {"target": {0: 0}}, "to another one"),
        ("badnets", {"target": {}}, "to another one"),
        ("badnets", {"target": {0: 1}, "all_to_all": True}, "no all_to_all"),
        ("badnets", {"target": {0: 1}, "sources": [0]}, "no sources"),
        ("badnets", {"target": {-1: 1}}, "greater than or equal to 0"),
        ("sig", {"target": {0: 1}}, "one class"),
        ("lf", {"target": {0: 1}}, "one class"),
    ],
)
def test_maps_that_mean_nothing_are_refused(name: str, told: dict[str, Any], said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        build("attack", name, told)


@pytest.mark.parametrize("target", [{0: 4}, {4: 0}])
def test_unknown_classes_are_refused(target: dict[int, int], images: Images) -> None:
    with pytest.raises(ParameterError, match="4 is not one of 4 classes"):
        BadNets(target=target).check(images)
