"""BPP: eight levels, and the dithering of Floyd and Steinberg written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unbackdoor.attacks.base.attack import COVER, STAMPED
from unbackdoor.attacks.bpp import BPP
from unbackdoor.core.images import Images
from unbackdoor.core.run import Run

SHARES = ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1))


def plainly_dithered(plane: Tensor, levels: int) -> Tensor:
    left = plane.double().clone()
    height, width = left.shape
    for i in range(height):
        for j in range(width):
            old = float(left[i, j])
            left[i, j] = round(min(max(old, 0.0), 1.0) * (levels - 1)) / (levels - 1)
            for down, right, share in SHARES:
                if i + down < height and 0 <= j + right < width:
                    left[i + down, j + right] += (old - left[i, j]) * share / 16
    return left


@pytest.mark.parametrize("dither", [True, False])
def test_eight_levels(dither: bool) -> None:
    x = torch.rand(4, 3, 12, 12)
    levels = BPP(dither=dither).stamp(x).unique() * 7
    assert len(levels) == 8
    assert torch.allclose(levels, levels.round(), atol=1e-5)


def test_poisoned_images_hold_eight_of_the_256_levels() -> None:
    pixels = torch.randint(0, 256, (40, 3, 8, 8), generator=Run().rng("x"), dtype=torch.uint8)
    train = Images(pixels, torch.arange(40) % 2, ("a", "b"))
    poisoned = BPP().poison(train, Run())
    stamped = poisoned.images.pixels[poisoned.role == STAMPED]
    # k / 7 of 255, rounded.
    assert stamped.unique().tolist() == [0, 36, 73, 109, 146, 182, 219, 255]
    assert len(poisoned.images.pixels[poisoned.role == COVER].unique()) > 100


@pytest.mark.parametrize("size", [(7, 5), (5, 9), (1, 4), (4, 1)])
def test_dithering_is_that_of_the_plain_loop(size: tuple[int, int]) -> None:
    x = torch.rand(2, 2, *size, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(BPP().stamp(x)[1, 0].double(), plainly_dithered(x[1, 0], 8), atol=1e-5)


@pytest.mark.parametrize("dither", [True, False])
def test_stamping_twice_is_stamping_once(dither: bool) -> None:
    once = BPP(dither=dither).stamp(torch.rand(2, 3, 8, 8))
    assert torch.allclose(BPP(dither=dither).stamp(once), once, atol=1e-6)


def test_cover_images_hold_the_residual_of_another() -> None:
    x = torch.tensor([0.5, 1.0]).view(2, 1, 1, 1)
    attack = BPP(levels=2, dither=False)
    # 0.5 rounds to 0 (to even), 1 stays: residuals -0.5 and 0, swapped.
    assert attack.cover(x, {}, Run().rng("")).flatten().tolist() == [0.5, 0.5]
    assert attack.cover_count(1) == 2
    assert BPP().cover_count(10) == 5
