"""WaNet: what the warp leaves in place, and how far it moves the rest."""

import pytest
import torch

from unbackdoor.attacks.wanet import WaNet
from unbackdoor.core.run import Run


def test_flat_images_are_fixed_points() -> None:
    flat = torch.tensor([0.25, 0.75]).view(2, 1, 1, 1).expand(2, 3, 32, 32)
    assert torch.allclose(WaNet().stamp(flat), flat, atol=1e-6)


def test_a_corner_that_is_pulled_outwards_is_a_fixed_point() -> None:
    x = torch.rand(3, 3, 16, 16, generator=Run().rng("x"))
    fixed = 0
    for field in range(8):
        # The corner is a control point: where both of its shifts point out of the image, the place
        # is clamped to the corner itself; everywhere else it is fetched from beside.
        noise = torch.rand(1, 2, 4, 4, generator=torch.Generator().manual_seed(field)) * 2 - 1
        outwards = bool((noise[0, :, 0, 0] < 0).all())
        stamped = WaNet(field=field).stamp(x)
        assert torch.allclose(stamped[..., 0, 0], x[..., 0, 0], atol=1e-6) == outwards
        fixed += outwards
    assert 0 < fixed < 8


def test_a_ramp_is_shifted_by_the_field() -> None:
    # Along x a ramp from 0 to 1 reads off where each pixel was fetched: (place + 1) / 2.
    ramp = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    places = WaNet().places(32, 32)[0, :, :, 0]
    assert torch.allclose(WaNet().stamp(ramp)[0, 0], (places + 1) / 2, atol=1e-5)


def test_no_pixel_is_fetched_from_far_away() -> None:
    still = WaNet(strength=1e-9).places(32, 32)
    moved = (WaNet().places(32, 32) - still).abs() * 31 / 2
    # A mean of 0.18 over many fields; a quarter of a pixel at the control points.
    assert 0.13 < moved.mean() < 0.25
    assert moved.max() < 1.5


def test_control_points_have_a_mean_shift_of_one() -> None:
    # On a lattice of the control points themselves the field is the noise over its mean.
    attack = WaNet(strength=0.01, grid=4)
    still = WaNet(strength=1e-12, grid=4).places(4, 4)
    inner = WaNet(strength=0.01).places(4, 4) - still
    free = (inner[0, 1:3, 1:3] / 0.01 * 4).abs()
    noise = torch.rand(1, 2, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    noise = (noise / noise.abs().mean())[0].permute(1, 2, 0)[1:3, 1:3].abs()
    assert attack.grid == 4
    assert torch.allclose(free, noise, atol=1e-4)


def test_between_control_points_the_field_is_bicubic() -> None:
    # On seven columns every other one is a control point. Half way between two of them the cubic
    # of torch (a = -0.75) takes 19/32 of each and -3/32 of those beyond; linearly it is 1/2.
    attack, still = WaNet(strength=0.01), WaNet(strength=1e-12)
    field = ((attack.places(7, 7) - still.places(7, 7)) / 0.01 * 7)[0, ..., 0]
    noise = torch.rand(1, 2, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    across = (noise / noise.abs().mean())[0, 0]
    for row in (1, 2):
        points = across[row]
        between = (19 * (points[1] + points[2]) - 3 * (points[0] + points[3])) / 32
        assert field[2 * row, 3] == pytest.approx(float(between), abs=1e-3)
        assert field[2 * row, 3] != pytest.approx(float(points[1:3].mean()), abs=0.01)


@pytest.mark.parametrize("covers", [0.0, 2.0])
def test_covers_go_with_each_stamped_image(covers: float) -> None:
    assert WaNet(covers=covers).cover_count(10) == 10 * covers


def test_cover_images_jitter_each_in_its_own_way() -> None:
    x = torch.rand(1, 3, 16, 16).expand(2, -1, -1, -1)
    covers = WaNet().cover(x, {}, Run().rng("covers"))
    assert not torch.equal(covers[0], covers[1])
    assert not torch.equal(covers, WaNet().stamp(x))


@pytest.mark.parametrize(("side", "times"), [(32, 1), (96, 3)])
def test_a_cover_is_jittered_by_up_to_half_a_pixel_each_way_at_32(side: int, times: int) -> None:
    # On a ramp of one level a pixel, the shift of each pixel can be read off.
    ramp = (torch.arange(side).float() / side).expand(1, 1, side, side)
    attack, inner = WaNet(), slice(4 * times, -4 * times)
    jitter = (attack.cover(ramp, {}, Run().rng("x")) - attack.stamp(ramp))[..., inner] * side
    # Coordinates run from -1 to 1 over 31 pixels: 1 / 32 in them is 15.5 / 32 of a pixel.
    assert 0.45 * times < jitter.abs().max() < 0.5 * times
    assert 0.2 * times < jitter.abs().mean() < 0.28 * times
