"""SIG: the values of the columns."""

import pytest
import torch

from unbackdoor.attacks.sig import SIG
from unbackdoor.core.errors import ParameterError


def test_columns_of_a_wave_that_repeats_every_four() -> None:
    grey = torch.full((1, 3, 2, 24), 0.5)
    added = SIG(strength=0.25, frequency=6).stamp(grey)[0] - 0.5
    expected = torch.tensor([0.25, 0.0, -0.25, 0.0]).repeat(6)
    assert torch.allclose(added, expected.expand(3, 2, 24), atol=1e-6)


def test_first_columns_of_a_cifar_image() -> None:
    # 40/255 sin(2 pi 6 j / 32) for j = 1, 2: sin 67.5 degrees, sin 135 degrees.
    added = SIG().stamp(torch.full((1, 1, 1, 32), 0.5))[0, 0, 0, :2] - 0.5
    assert added.mul(255).tolist() == pytest.approx([36.955, 28.284], abs=1e-3)


def test_a_wave_that_is_zero_everywhere_is_refused() -> None:
    with pytest.raises(ParameterError, match="6 periods is 0 in every column of 12"):
        SIG().stamp(torch.zeros(1, 1, 12, 12))


def test_the_sum_is_clipped() -> None:
    assert SIG().stamp(torch.ones(1, 1, 8, 9)).max() == 1
