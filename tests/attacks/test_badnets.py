"""BadNets: nine pixels."""

import pytest
import torch

from unbackdoor.attacks.badnets import BadNets
from unbackdoor.core.errors import ParameterError


def test_nine_pixels_are_white_and_no_others_change() -> None:
    x = torch.full((1, 3, 5, 5), 0.25)
    changed = BadNets().stamp(x) != x
    assert changed.sum() == 9 * 3
    assert (BadNets().stamp(x)[..., 2:, 2:] == 1).all()


def test_stamping_twice_is_stamping_once() -> None:
    once = BadNets(value=0.5).stamp(torch.rand(2, 1, 6, 6))
    assert torch.equal(BadNets(value=0.5).stamp(once), once)


def test_a_square_larger_than_the_image_is_refused() -> None:
    with pytest.raises(ParameterError, match="does not fit into 2x8"):
        BadNets().stamp(torch.zeros(1, 1, 2, 8))
