import math

import pytest
import torch

from unbackdoor.training.adversarial import Ball, avoidance, climbed


def uphill(moved):
    return (moved * torch.tensor([3.0, -4.0]).view(2, 1, 1)).sum()


@pytest.mark.parametrize(
    ("norm", "expected"),
    # one step of 0.1 along the sign, or along (3, -4) / 5; three would leave the ball of 0.2
    [("inf", [[0.6, 0.4], [0.7, 0.3]]), ("2", [[0.56, 0.42], [0.62, 0.34]])],
)
def test_steps_go_straight_up_and_stay_in_the_ball(norm, expected):
    x = torch.full((1, 2, 1, 1), 0.5)
    for steps, point in zip((1, 3), expected, strict=True):
        moved = climbed(x, uphill, Ball(0.2, norm), step=0.1, steps=steps)
        torch.testing.assert_close(moved.flatten(), torch.tensor(point))


def test_images_stay_images_and_each_has_its_own_ball():
    x = torch.tensor([0.95, 0.05]).view(1, 2, 1, 1).repeat(2, 1, 1, 1)
    start = torch.zeros_like(x)
    start[1] = -9.0
    moved = climbed(x, uphill, Ball(0.2, "2"), step=0.0, steps=1, start=start)
    assert torch.equal(moved[0], x[0])
    assert (moved[1] - x[1]).norm() <= 0.2
    assert moved.min() >= 0
    wild = climbed(x, uphill, Ball(0.2, "inf"), step=0.2, steps=2)
    assert wild.flatten().tolist() == [1.0, 0.0] * 2


def test_avoidance_is_the_negative_log_of_the_rest():
    logits = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()
    expected = torch.tensor([-math.log(0.75), -math.log(0.5)])
    torch.testing.assert_close(avoidance(logits, torch.tensor([0, 1])), expected)
    assert avoidance(torch.tensor([[500.0, 0.0]]), torch.tensor([0])).isfinite()
