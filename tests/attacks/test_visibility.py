"""Visibility: numbers that can be worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from unbackdoor.attacks.base.visibility import ssim, visibility
from unbackdoor.core.errors import ImagesError
from unbackdoor.core.images import Images


def flat(*levels: int, side: int = 16) -> Images:
    pixels = torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1)
    pixels = pixels.expand(-1, 3, side, side).contiguous()
    return Images(pixels, torch.zeros(len(levels), dtype=torch.int64), ("a",))


def test_flat_images_ten_levels_apart() -> None:
    found = visibility(flat(100), flat(110))
    assert found.linf == pytest.approx(10 / 255)
    assert found.psnr == pytest.approx(20 * math.log10(25.5))
    # No variance: the structure term is 1, the light term (2ab + c) / (a^2 + b^2 + c) stays.
    a, b, c = 100 / 255, 110 / 255, 1e-4
    assert found.ssim == pytest.approx((2 * a * b + c) / (a * a + b * b + c), abs=1e-5)


def test_the_same_images() -> None:
    found = visibility(flat(1, 2), flat(1, 2))
    assert found.psnr == math.inf
    assert found.linf == 0
    assert found.ssim == pytest.approx(1, abs=1e-6)
    assert found.as_json()["psnr"] is None


def test_the_error_is_that_of_all_images_in_any_parts() -> None:
    clean, stamped = flat(100, 100, 100), flat(100, 100, 130)
    whole = visibility(clean, stamped)
    assert whole.psnr == pytest.approx(-10 * math.log10((30 / 255) ** 2 / 3), abs=1e-4)
    assert visibility(clean, stamped, part=2).ssim == pytest.approx(whole.ssim, abs=1e-6)


def test_ssim_of_an_inverted_pattern_is_negative() -> None:
    pattern = (torch.arange(256).view(1, 1, 16, 16) % 2).float()
    assert ssim(pattern, 1 - pattern) < -0.9
    assert ssim(pattern, pattern) == pytest.approx(1, abs=1e-5)


def test_ssim_of_images_smaller_than_the_window() -> None:
    x = torch.rand(2, 1, 4, 6)
    assert ssim(x, x).tolist() == pytest.approx([1, 1], abs=1e-4)


def test_images_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ImagesError, match="as many and of one size"):
        visibility(flat(1), flat(1, 2))
