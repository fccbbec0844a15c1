import math

import pytest
import torch

from unbackdoor.training.adversarial import Ball, avoidance


@pytest.mark.parametrize(
    ("norm", "steepest", "clipped"),
    [("inf", [1.0, -1.0], [2.0, -2.0]), ("2", [0.6, -0.8], [1.2, -1.6])],
)
def test_moves_follow_the_slope_and_stay_in_the_ball_of_their_image(norm, steepest, clipped):
    ball, slope = Ball(2.0, norm), torch.tensor([3.0, -4.0]).view(1, 2, 1, 1)
    torch.testing.assert_close(ball.steepest(slope).flatten(), torch.tensor(steepest))
    both = ball.clipped(torch.cat([slope, slope / 100]))
    torch.testing.assert_close(both[0].flatten(), torch.tensor(clipped))
    assert torch.equal(both[1:], slope / 100)


def test_avoidance_is_the_negative_log_of_the_rest():
    logits = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()
    expected = torch.tensor([-math.log(0.75), -math.log(0.5)])
    torch.testing.assert_close(avoidance(logits, torch.tensor([0, 1])), expected)
    assert avoidance(torch.tensor([[500.0, 0.0]]), torch.tensor([0])).isfinite()
