"""Blended: four parts image, one part picture."""

import torch

from unbackdoor.attacks.base.patterns import picture
from unbackdoor.attacks.blended import Blended


def test_black_and_white_images_show_the_picture() -> None:
    seen = picture(0, 8, 3, 16, 16)
    black, white = torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16)
    assert torch.allclose(Blended().stamp(black)[0], 0.2 * seen)
    assert torch.allclose(Blended().stamp(white)[0], 0.8 + 0.2 * seen)


def test_each_pattern_is_a_picture_of_its_own() -> None:
    x = torch.zeros(1, 3, 16, 16)
    assert not torch.equal(Blended().stamp(x), Blended(pattern=1).stamp(x))
