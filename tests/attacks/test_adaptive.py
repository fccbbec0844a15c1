"""Adaptive attacks: weaker in training than at test."""

import pytest
import torch

from unbackdoor.attacks.adaptive_blend import AdaptiveBlend
from unbackdoor.attacks.adaptive_patch import AdaptivePatch
from unbackdoor.attacks.base.patterns import picture
from unbackdoor.core.errors import ParameterError
from unbackdoor.core.run import Run


def test_half_of_the_sixteen_parts_hold_the_faint_picture() -> None:
    black = torch.zeros(5, 3, 8, 8)
    implanted = AdaptiveBlend().implant(black, {}, Run().rng("parts"))
    whole = 0.15 * picture(0, 8, 3, 8, 8)
    shown = (implanted > 0).any(1)
    assert shown.sum((1, 2)).tolist() == [32] * 5
    assert torch.allclose(implanted, torch.where(shown[:, None], whole, 0.0))
    cells = shown.view(5, 4, 2, 4, 2)
    assert torch.equal(cells.any(4).any(2), cells.all(4).all(2))
    assert len({tuple(image.flatten().tolist()) for image in shown}) > 1


def test_at_test_the_whole_picture_is_shown() -> None:
    whole = AdaptiveBlend().stamp(torch.zeros(1, 3, 8, 8))
    assert torch.allclose(whole[0], 0.2 * picture(0, 8, 3, 8, 8))


def test_one_faint_corner_in_training_and_all_at_test() -> None:
    black = torch.zeros(20, 3, 16, 16)
    attack = AdaptivePatch(size=4)
    corners = [(..., slice(0, 4), slice(0, 4)), (..., slice(0, 4), slice(12, 16))]
    corners += [(..., slice(12, 16), slice(0, 4)), (..., slice(12, 16), slice(12, 16))]
    implanted = attack.implant(black, {}, Run().rng("patch"))
    shown = torch.stack([(implanted[corner] > 0).flatten(1).any(1) for corner in corners])
    assert shown.sum(0).tolist() == [1] * 20
    assert shown.any(1).all()
    stamped = attack.stamp(black)
    assert all((stamped[corner] > 0).any() for corner in corners)
    faint = implanted[shown[1]][0][corners[1]]
    assert torch.allclose(faint, 0.2 * stamped[0][corners[1]])


def test_a_patch_larger_than_the_image_is_refused() -> None:
    with pytest.raises(ParameterError, match="larger than 4x4"):
        AdaptivePatch().stamp(torch.zeros(1, 1, 4, 4))
