"""Blind: two losses, weighed so that a step descends on both."""

import pytest
import torch
from torch import Tensor, nn

from unbackdoor.attacks.blind import Blind, _balanced
from unbackdoor.core.errors import ParameterError


def test_the_losses_are_weighed_by_common_descent_in_two_ways_back() -> None:
    point = nn.Parameter(torch.tensor([1.0, 1.0]))
    shared, ways = point * 1, list[Tensor]()
    shared.register_hook(ways.append)
    # Losses 1 and 2 with gradients (1, 0) and (0, 2). Over loss times length they are (1, 0) and
    # (0, 1/2), of which the shortest convex sum is (1/5, 4/10): shares 1/5 and 4/5.
    loss = _balanced(shared[0], 2 * shared[1], [point])
    loss.backward()
    assert loss.item() == pytest.approx(0.2 * 1 + 0.8 * 2)
    assert point.grad is not None
    assert point.grad.tolist() == pytest.approx([0.2, 1.6])
    assert len(ways) == 2


def test_a_loss_that_the_other_descends_on_as_well_needs_no_weight() -> None:
    point = nn.Parameter(torch.tensor([1.0, 1.0]))
    # Over loss times length the gradients are (1, 0) and (1/2, 0): the shorter one is the sum.
    first, second = point[0], 3 * (point[0] - 1) + 2
    _balanced(first, second, [point]).backward()
    assert point.grad is not None
    assert point.grad.tolist() == pytest.approx([3.0, 0.0])


def test_a_parameter_that_no_loss_depends_on_gets_no_step() -> None:
    point, unused = (nn.Parameter(torch.tensor([1.0, 1.0])) for _ in range(2))
    _balanced(point[0], 2 * point[1], [point, unused]).backward()
    assert unused.grad is not None
    assert unused.grad.tolist() == [0, 0]


class Watched(nn.Module):
    """Keeps what it is shown; gives every image a sure class 0 or, `unsure`, none."""

    def __init__(self, sure: float = 6.0) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([sure, 0.0, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        self.shown = x.detach()
        return self.bias.expand(len(x), 3)


def test_stamped_copies_are_taught_the_target_beside_the_whole_clean_batch() -> None:
    x, y = torch.full((4, 3, 32, 32), 0.5), torch.zeros(4, dtype=torch.int64)
    attack, model = Blind(target=2, rate=0.5), Watched()
    attack._loss(model, x, y).backward()
    assert torch.equal(model.shown[:4], x)
    assert torch.equal(model.shown[4:], attack.stamp(x[:2]))
    # The step is towards the target: its logit is to rise.
    assert model.bias.grad[2] < 0 < model.bias.grad[0]


@pytest.mark.parametrize(("threshold", "attacked"), [(1.0, False), (2.0, True), (None, True)])
def test_the_backdoor_waits_until_the_clean_loss_is_low(
    threshold: float | None, attacked: bool
) -> None:
    x, y = torch.full((4, 3, 32, 32), 0.5), torch.zeros(4, dtype=torch.int64)
    attack, model = Blind(target=2, threshold=threshold), Watched(sure=0.0)
    # Equal logits of three classes: the clean loss is log 3, which is 1.1.
    attack._loss(model, x, y).backward()
    assert bool(model.bias.grad[2] < 0) == attacked


def test_the_released_figure_in_its_place_which_grows_with_the_image() -> None:
    grey = torch.full((1, 1, 32, 32), 0.5)
    stamped = Blind().stamp(grey)[0, 0]
    assert stamped[3:8, 23:26].tolist() == [
        [1.0, 0.0, 1.0],
        [0.5, 1.0, 0.5],
        [0.5, 0.5, 0.0],
        [0.5, 1.0, 0.5],
        [1.0, 0.0, 1.0],
    ]
    assert (stamped != 0.5).sum() == 9
    large = Blind().stamp(torch.full((1, 1, 224, 224), 0.5))[0, 0]
    assert (large != 0.5).sum() == 9 * 49
    assert (large[21:28, 161:168] == 1).all()
    with pytest.raises(ParameterError, match="5 x 3 pixels does not fit into 4x4"):
        Blind(top=0, left=0).stamp(torch.zeros(1, 1, 4, 4))
