import pytest
import torch
from torch.nn import functional as F

from unbackdoor.training.disturbance import (
    BLEND,
    SHARP,
    WAYS,
    covered,
    disturbed,
    grained,
    mixed,
    shaded,
    softened,
    toned,
    turned,
)
from unbackdoor.training.views import View


def images(n: int = 64, channels: int = 3, side: int = 32) -> torch.Tensor:
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("channels", "side"), [(3, 32), (1, 8), (2, 5)])
def test_every_way_changes_every_image_and_none_it_was_given(way, channels, side):
    x = images(channels=channels, side=side)
    before, others = x.clone(), x.roll(1, 0)
    changed = way(x, others)
    assert changed.shape == x.shape and changed.dtype == x.dtype
    assert torch.equal(x, before)
    assert not (changed == x).flatten(1).all(1).any()


def test_pixels_stay_in_their_range_and_the_generator_decides():
    x = images()
    torch.manual_seed(3)
    one = disturbed(x, WAYS)
    torch.manual_seed(3)
    assert torch.equal(one, disturbed(x, WAYS))
    assert not torch.equal(one, disturbed(x, WAYS))
    assert one.min() >= 0 and one.max() <= 1


def test_each_image_is_disturbed_in_one_way_and_all_ways_occur():
    ways = [lambda x, others, to=to: torch.full_like(x, to) for to in (0.1, 0.2, 0.3)]
    seen = disturbed(images(), ways).flatten(1)
    assert torch.equal(seen.amin(1), seen.amax(1))
    counts = [int((seen[:, 0] == value).sum()) for value in (0.1, 0.2, 0.3)]
    assert sum(counts) == 64 and min(counts) == 21


def test_images_keep_their_places_and_get_another_of_the_batch():
    x = images()

    def is_another(some, others):
        assert not (some == others).flatten(1).all(1).any()
        assert all(any(torch.equal(one, each) for each in x) for one in others)
        return some

    torch.manual_seed(0)
    assert torch.equal(disturbed(x, [is_another]), x)


def test_one_image_gets_every_way_in_its_turn():
    ways = [lambda x, others, to=to: torch.full_like(x, to) for to in (0.1, 0.2, 0.3)]
    torch.manual_seed(0)
    assert len({float(disturbed(images(1), ways).mean()) for _ in range(50)}) == 3


def test_at_most_a_share_of_the_other_image_is_mixed_in():
    x, others = torch.zeros(500, 1, 2, 2), torch.ones(500, 1, 2, 2)
    shares = mixed(x, others)[:, 0, 0, 0]
    assert shares.min() >= 0 and 0.9 * BLEND < shares.max() <= BLEND


def test_a_cover_is_one_square_of_the_other_image_or_of_noise():
    x, others = torch.zeros(200, 1, 12, 12), torch.full((200, 1, 12, 12), 2.0)
    for image in covered(x, others)[:, 0]:
        rows, columns = image.any(1), image.any(0)
        assert 2 <= int(rows.sum()) == int(columns.sum()) <= 4
        square = image[rows][:, columns]
        assert bool((square == 2).all()) or bool(((square > 0) & (square < 1)).all())


def test_a_shade_is_smooth_and_grain_is_not():
    x = torch.full((100, 1, 32, 32), 0.5)
    torch.manual_seed(0)
    for way, low, high in ((shaded, 0.0, 0.6), (grained, 1.2, 1.6)):
        added = way(x, x) - x
        steps = added.diff(dim=-1).flatten(1).std(1) / added.flatten(1).std(1)
        assert low < float(steps.median()) < high


def test_an_image_is_turned_about_its_middle_and_keeps_its_colours():
    torch.manual_seed(0)
    x = torch.zeros(200, 1, 33, 33)
    x[:, :, 8:25, 15:18] = 1.0  # an upright bar
    seen = turned(x, x)
    rows, columns = torch.meshgrid(torch.arange(33.0), torch.arange(33.0), indexing="ij")
    mass = seen.sum((1, 2, 3))
    middle = torch.stack([(seen[:, 0] * at).sum((1, 2)) / mass for at in (rows, columns)])
    assert ((middle - 16).abs() < 6).all() and (middle - 16).std() > 0.5
    assert mass.min() < 0.85 * 51 and mass.max() > 1.15 * 51  # smaller and larger
    over = (rows - middle[0, :, None, None]) * (columns - middle[1, :, None, None]) * seen[:, 0]
    assert (over.sum((1, 2)) > 40).any() and (over.sum((1, 2)) < -40).any()  # either way


def test_what_is_not_square_is_turned_and_not_sheared(monkeypatch):
    seen = []
    grid = F.affine_grid
    monkeypatch.setattr(
        F, "affine_grid", lambda *told, **more: seen.append(told[0]) or grid(*told, **more)
    )
    turned(torch.rand(50, 1, 16, 64), torch.empty(0))
    half = torch.tensor([32.0, 8.0])  # pixels of a unit of the grid, across and down
    steps = seen[0][:, :, :2] * half.view(2, 1) / half  # in pixels
    lengths, angles = steps.norm(dim=1), (steps[:, :, 0] * steps[:, :, 1]).sum(1)
    torch.testing.assert_close(lengths[:, 0], lengths[:, 1])
    torch.testing.assert_close(angles, torch.zeros(50), atol=1e-5, rtol=0)
    assert steps[:, 0, 1].abs().max() > 0.2


def test_a_blur_is_the_mean_of_a_square_by_one_row_and_one_column(monkeypatch):
    kernels = []
    pool = F.avg_pool2d
    monkeypatch.setattr(F, "avg_pool2d", lambda x, k, s: kernels.append(k) or pool(x, k, s))
    monkeypatch.setattr("unbackdoor.training.disturbance.SHARP", 0.0)
    monkeypatch.setattr("unbackdoor.training.disturbance._strength", lambda x: torch.ones(1))
    x = torch.rand(2, 3, 64, 96)
    soft = softened(x, x)
    side = max(kernels[0])
    assert kernels == [(side, 1), (1, side)] and side > 3
    plain = pool(F.pad(x, (side // 2,) * 4, mode="replicate"), side, 1)
    torch.testing.assert_close(soft, plain)


VIEW = View(cropped=True, mirrored=True, mixed=True)


@pytest.mark.parametrize("way", [*WAYS, lambda x, _: disturbed(x, [grained]), lambda x, _: VIEW(x)])
def test_all_is_drawn_on_the_device_of_the_images(way, monkeypatch):
    """Else each draw waits for a copy."""
    to = torch.Tensor.to

    def stays(self, *told, **more):
        moved = to(self, *told, **more)
        assert moved.device == self.device
        return moved

    monkeypatch.setattr(torch.Tensor, "to", stays)
    x = torch.rand(4, 3, 8, 8, device="meta")
    assert way(x, x).device.type == "meta"


def test_an_image_is_blurred_or_sharpened():
    torch.manual_seed(0)
    x = images(300)
    part = softened(x, x).flatten(1).std(1) / x.flatten(1).std(1)
    assert part.min() < 0.5 and part.max() > 1 + 0.6 * SHARP


def test_tones_go_up_and_down_and_black_and_white_stay():
    torch.manual_seed(0)
    x = torch.tensor([0.0, 0.5, 1.0]).expand(400, 3, 1, 3).contiguous()
    seen = toned(x, x)
    assert seen[..., 0].max() < 0.1 and torch.equal(seen[..., 2], torch.ones_like(seen[..., 2]))
    assert seen[..., 1].min() < 0.35 and seen[..., 1].max() > 0.65
    assert (seen[:, 0, 0, 1] - seen[:, 1, 0, 1]).abs().max() > 0.2  # a cast of colour
