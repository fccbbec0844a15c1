import pytest
import torch

from unbackdoor.training.disturbance import BLEND, WAYS, covered, disturbed, grained, mixed, shaded


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
    one = disturbed(x)
    torch.manual_seed(3)
    assert torch.equal(one, disturbed(x))
    assert not torch.equal(one, disturbed(x))
    assert one.min() >= 0 and one.max() <= 1


def test_each_image_is_disturbed_in_one_way_and_all_ways_occur(monkeypatch):
    ways = [lambda x, others, to=to: torch.full_like(x, to) for to in (0.1, 0.2, 0.3)]
    monkeypatch.setattr("unbackdoor.training.disturbance.WAYS", ways)
    seen = disturbed(images()).flatten(1)
    assert torch.equal(seen.amin(1), seen.amax(1))
    assert {round(float(value), 1) for value in seen[:, 0]} == {0.1, 0.2, 0.3}


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
