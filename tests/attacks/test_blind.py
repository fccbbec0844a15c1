"""Blind: two losses, weighed so that a step descends on both."""

import pytest
import torch
from torch import Tensor, nn

from unbackdoor.attacks.blind import _balanced


def test_the_losses_are_weighed_by_common_descent_in_two_ways_back() -> None:
    point = nn.Parameter(torch.tensor([1.0, 1.0]))
    shared, ways = point * 1, list[Tensor]()
    shared.register_hook(ways.append)
    # Over its loss each gradient has length 1: (1, 0) and (0, 1). So half of each is taken.
    loss = _balanced(shared[0], 2 * shared[1], [point])
    loss.backward()
    assert loss.item() == pytest.approx(0.5 * 1 + 0.5 * 2)
    assert point.grad is not None
    assert point.grad.tolist() == pytest.approx([0.5, 1.0])
    assert len(ways) == 2


def test_a_loss_that_the_other_descends_on_as_well_needs_no_weight() -> None:
    point = nn.Parameter(torch.tensor([1.0, 1.0]))
    # Over their losses the gradients are (1, 0) and (3, 0): the shorter one is the least sum.
    first, second = point[0], 3 * (point[0] - 1) + 1
    _balanced(first, second, [point]).backward()
    assert point.grad is not None
    assert point.grad.tolist() == pytest.approx([1.0, 0.0])
