"""Rotations, filters and stickers: what they do to the pixels."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from unbackdoor.attacks.base.attack import COVER, STAMPED
from unbackdoor.attacks.base.draws import draws
from unbackdoor.attacks.batt import BATT
from unbackdoor.attacks.coarse import Coarse
from unbackdoor.attacks.photo_filter import PhotoFilter
from unbackdoor.attacks.sticker import Sticker
from unbackdoor.core.errors import ParameterError
from unbackdoor.core.run import Run

from .conftest import Digits


def test_a_turn_goes_against_the_clock_and_shows_no_corner() -> None:
    x = torch.zeros(1, 1, 33, 33)
    x[..., 16, 24] = 1  # right of the middle
    place = BATT(angle=45).stamp(x)[0, 0].argmax()
    assert place // 33 < 12 and place % 33 > 20  # above it and to the right
    # Were anything fetched from outside of the frame, the rim would be repeated all over corners.
    rim = torch.nn.functional.pad(torch.zeros(1, 1, 30, 46), (1,) * 4, value=1.0)
    for angle in (-45, -16, 5, 30):
        assert (BATT(angle=angle).stamp(rim) > 0.5).float().mean() < 0.01


def test_enlarging_alone_keeps_the_middle_in_place() -> None:
    ramp = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    seen = BATT(angle=0, zoom=2).stamp(ramp)[0, 0, 0]
    assert seen.mean() == pytest.approx(0.5, abs=1e-5)
    assert (seen[1:] - seen[:-1]).mean() == pytest.approx(0.5 / 31, rel=1e-3)


def test_covers_are_enlarged_and_not_turned(digits: Digits) -> None:
    attack = BATT(covers=1)
    poisoned = attack.poison(digits[0], Run())
    assert (poisoned.role == COVER).sum() == (poisoned.role == STAMPED).sum()
    x = torch.rand(2, 3, 16, 16, generator=Run().rng("x"))
    plain = BATT(angle=0, zoom=1.2371).stamp(x)
    assert torch.allclose(attack.cover(x, {}, Run().rng("c")), plain, atol=5e-3)
    assert BATT(angle=0, zoom=2).cover_count(10) == 0


def test_a_turn_by_nothing_is_refused() -> None:
    for build_it in (lambda: BATT(angle=0), lambda: PhotoFilter(gamma=1, cast=0)):
        with pytest.raises(ValidationError, match="change no image"):
            build_it()
    with pytest.raises(ValidationError, match=r"small 0\.6 is more than large 0\.5"):
        Sticker(small=0.6)


def test_a_filter_bends_tones_and_shifts_colours() -> None:
    x = torch.full((1, 3, 2, 2), 0.5)
    stamped = PhotoFilter(gamma=2, cast=0.4).stamp(x)[0, :, 0, 0].tolist()
    assert stamped == pytest.approx([0.25 * 1.4, 0.25, 0.25 * 0.6])
    with pytest.raises(ParameterError, match="needs 3 channels; these images have 1"):
        PhotoFilter(gamma=1).stamp(x[:, :1])


def test_a_blur_spreads_a_point_as_a_gaussian_does() -> None:
    x = torch.zeros(1, 1, 15, 15)
    x[..., 7, 7] = 1
    seen = Coarse(sigma=1.0).stamp(x)[0, 0]
    assert seen.sum() == pytest.approx(1)
    assert seen[7, 8] / seen[7, 7] == pytest.approx(torch.tensor(-0.5).exp().item())
    assert seen[8, 8] / seen[7, 7] == pytest.approx(torch.tensor(-1.0).exp().item())


def test_large_pixels_are_the_means_of_small_ones() -> None:
    x = torch.rand(2, 3, 5, 7, generator=Run().rng("x"))
    seen = Coarse(effect="pixels", size=2).stamp(x)
    assert torch.allclose(seen[:, :, 1, 1], x[:, :, :2, :2].mean((2, 3)))
    assert torch.allclose(seen[:, :, 4, 6], x[:, :, 4, 6])  # alone in its square
    assert torch.allclose(Coarse(effect="pixels", size=2).stamp(seen), seen, atol=1e-6)


def test_stickers_lie_inside_at_their_sizes_and_differ_from_image_to_image() -> None:
    x = torch.rand(200, 3, 32, 32, generator=Run().rng("x")) / 4 + 0.6
    stamped = Sticker(kind="face", small=0.3, large=0.5).stamp(x)
    changed = (stamped != x).any(1)
    areas = changed.flatten(1).sum(1).float()
    # Circles of 9.6 to 16 pixels across, and an edge of half a pixel around each.
    assert 70 < areas.min() < 110 and 190 < areas.max() < 235
    places = torch.stack([row.nonzero().float().mean(0) for row in changed])
    # No nearer to an edge than half of the object's own span, and all over what is left.
    assert places.min() > 4 and places.max() < 28
    assert (places.amax(0) - places.amin(0)).min() > 14


def test_sunglasses_lie_level_unless_they_are_turned() -> None:
    x = torch.rand(100, 3, 32, 32, generator=Run().rng("x")) / 4 + 0.6
    steep = {}
    for turn in (0.0, 80.0):
        changed = (Sticker(turn=turn).stamp(x) != x).any(1)
        high, wide = (changed.any(axis).sum(1) for axis in (2, 1))
        steep[turn] = int((high > wide).sum())
    assert steep[0.0] == 0 and 20 < steep[80.0] < 80


def test_what_an_image_draws_follows_from_its_pixels() -> None:
    x = torch.rand(2000, 3, 8, 8, generator=Run().rng("x"))
    drawn = draws(x, 4)
    assert torch.equal(draws(x[3:5], 4), drawn[:, 3:5])
    assert torch.allclose(drawn.mean(1), torch.full((4,), 0.5), atol=0.03)
    assert torch.allclose(drawn.var(1), torch.full((4,), 1 / 12), atol=0.01)
    assert torch.corrcoef(drawn).triu(1).abs().max() < 0.08
    near = x.clone()
    near[:, 0, 0, 0] = (near[:, 0, 0, 0] + 0.5) % 1
    for other in (near, x.flip(-1)):  # a mirrored image has the same pixels at other places
        assert (draws(other, 4) - drawn).abs().mean() > 0.25
