"""Adaptive attacks: weaker in training than at test."""

import pytest
import torch

from unbackdoor.attacks.adaptive_blend import AdaptiveBlend
from unbackdoor.attacks.adaptive_patch import AdaptivePatch
from unbackdoor.attacks.base.attack import COVER, STAMPED, Attack
from unbackdoor.attacks.base.patterns import picture
from unbackdoor.core.errors import ParameterError
from unbackdoor.core.images import Images
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


@pytest.mark.parametrize(("attack", "covers"), [(AdaptiveBlend, 10), (AdaptivePatch, 20)])
def test_cover_images_go_with_the_poisoned_ones_and_keep_their_label(
    attack: type[Attack], covers: int
) -> None:
    train = Images(
        torch.zeros(60, 3, 16, 16, dtype=torch.uint8), torch.arange(60) % 3, tuple("abc")
    )
    poisoned = attack(count=10).poison(train, Run())
    covered = poisoned.role == COVER
    assert (poisoned.role == STAMPED).sum() == 10
    assert covered.sum() == covers
    assert torch.equal(poisoned.images.labels[covered], train.labels[covered])
    assert (poisoned.images.pixels[covered] > 0).flatten(1).any(1).all()


def corners(side: int, size: int) -> list[tuple]:
    ends = (slice(0, size), slice(side - size, side))
    return [(..., rows, columns) for rows in ends for columns in ends]


def test_one_corner_in_training_at_its_own_opacity() -> None:
    black, attack = torch.zeros(40, 3, 16, 16), AdaptivePatch(size=4)
    implanted = attack.implant(black, {}, Run().rng("patch"))
    opaque = AdaptivePatch(size=4, together=4).stamp(black)
    places = corners(16, 4)
    shown = torch.stack([(implanted[place] > 0).flatten(1).any(1) for place in places])
    assert shown.sum(0).tolist() == [1] * 40
    assert shown.any(1).all()
    for place, those, opacity in zip(places, shown, (0.5, 0.2, 0.5, 0.3), strict=True):
        assert torch.allclose(implanted[those][place], opacity * opaque[those][place])


def test_at_test_the_two_clearest_patches_are_there_opaque() -> None:
    stamped = AdaptivePatch(size=4).stamp(torch.zeros(1, 3, 16, 16))
    assert [bool((stamped[place] > 0).any()) for place in corners(16, 4)] == [
        *(True, False),
        *(True, False),
    ]
    assert set(stamped.unique().tolist()) == {0, 1}


def test_a_patch_larger_than_the_image_is_refused() -> None:
    with pytest.raises(ParameterError, match="larger than 4x4"):
        AdaptivePatch().stamp(torch.zeros(1, 1, 4, 4))
