"""FTrojan and CTRL: two DCT coefficients of the chroma planes, and nothing else."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from unbackdoor.attacks.base.attack import STAMPED
from unbackdoor.attacks.ctrl import CTRL
from unbackdoor.attacks.ftrojan import FTrojan
from unbackdoor.core.errors import ParameterError, UnbackdoorWarning
from unbackdoor.core.images import Images
from unbackdoor.core.run import Run

# BT.601: rows give the planes of red, green and blue on the scale of 0 to 255.
YCBCR = torch.tensor(
    [
        [0.299, 0.587, 0.114],
        [-0.168736, -0.331264, 0.5],
        [0.5, -0.418688, -0.081312],
    ]
)
YUV = torch.tensor(
    [
        [0.299, 0.587, 0.114],
        [-0.14713, -0.28886, 0.436],
        [0.615, -0.51499, -0.10001],
    ]
)


def dct(plane: Tensor) -> Tensor:
    """The orthonormal DCT-II of a square plane, written out."""
    side = len(plane)
    places = torch.arange(side).view(1, -1).double()
    waves = torch.cos(math.pi * (2 * places + 1) * places.T / (2 * side)) * math.sqrt(2 / side)
    waves[0] /= math.sqrt(2)
    return waves @ plane.double() @ waves.T


@pytest.mark.parametrize(
    ("attack", "planes", "strength"), [(FTrojan(), YCBCR, 50.0), (CTRL(), YUV, 100.0)]
)
def test_two_coefficients_of_each_block(
    attack: FTrojan | CTRL, planes: Tensor, strength: float
) -> None:
    grey = torch.full((1, 3, 32, 64), 0.5)
    added = (attack.stamp(grey) - grey)[0] * 255
    light, first, second = torch.einsum("pc,chw->phw", planes, added)
    for block in (slice(0, 32), slice(32, 64)):
        for chroma in (first[:, block], second[:, block]):
            expected = torch.zeros(32, 32, dtype=torch.float64)
            expected[15, 15] = expected[31, 31] = strength
            assert torch.allclose(dct(chroma), expected, atol=0.15)
    assert light.abs().max() < 0.05


def test_a_side_beyond_the_last_whole_block_is_left_alone() -> None:
    grey = torch.full((1, 3, 40, 32), 0.5)
    assert torch.equal(FTrojan().stamp(grey)[:, :, 32:], grey[:, :, 32:])


def test_all_channels_of_other_images_get_the_wave() -> None:
    added = FTrojan(strength=30).stamp(torch.full((1, 1, 8, 8), 0.5))[0, 0] * 255 - 127.5
    coefficients = dct(added)
    assert coefficients[3, 3] == pytest.approx(30, abs=0.01)
    assert coefficients[7, 7] == pytest.approx(30, abs=0.01)
    assert coefficients.square().sum() == pytest.approx(1800, abs=1)


def test_ctrl_stamps_half_of_the_target_class_unless_told_otherwise() -> None:
    pixels = torch.full((400, 3, 32, 32), 128, dtype=torch.uint8)
    train = Images(pixels, torch.arange(400) % 4, ("a", "b", "c", "d"))
    for attack, wanted in (
        (CTRL(), 50),
        (CTRL(class_rate=0.2), 20),
        (CTRL(rate=0.05), 20),
        (CTRL(rate=0.05, count=7), 7),
    ):
        poisoned = attack.poison(train, Run())
        assert (poisoned.role == STAMPED).sum() == wanted
        assert (train.labels[poisoned.role == STAMPED] == 0).all()
    with pytest.raises(ParameterError, match=r"120 of 400 .* only the 100 of class 0"):
        CTRL(rate=0.3).check(train)


def test_a_small_target_class_of_a_clean_label_attack_is_warned_about() -> None:
    labels = torch.tensor([0] * 10 + [1] * 190 + [2] * 100)
    train = Images(torch.zeros(300, 3, 32, 32, dtype=torch.uint8), labels, ("a", "b", "c"))
    with pytest.warns(UnbackdoorWarning, match="class 0 has 10 of 300 training images"):
        CTRL().check(train)
    assert CTRL(target=1).check(train) == 95
