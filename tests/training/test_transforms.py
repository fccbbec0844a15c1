import math

import pytest
import torch
from torch import Tensor

from unbackdoor.training import transforms as module
from unbackdoor.training.disturbance import moved
from unbackdoor.training.transforms import FIRST, FRESH, KEPT, MOST, NEAR, Transforms, costs


def bars(n: int = 40) -> Tensor:
    """Images with a bright upright bar each, of some width, on a dark ground."""
    x = torch.full((n, 3, 32, 32), 0.2)
    for place, image in enumerate(x):
        image[:, 2:30, 12 : 18 + place % 4] = 0.9
    return x


def obeys_a_turn(x: Tensor) -> Tensor:
    """Sends images whose bar leans as after a turn by about 30 degrees to class 1, others to 0."""
    ahead, back = (_leaning(x, angle) for angle in (-30.0, 0.0))
    return torch.stack([back, ahead], 1)


def _leaning(x: Tensor, angle: float) -> Tensor:
    mask = turned(bars(1), angle)
    return (x * (mask - mask.mean())).sum((1, 2, 3))


def turned(x: Tensor, degrees: float) -> Tensor:
    n = len(x)
    none = torch.zeros(n)
    return moved(x, torch.full((n,), math.radians(degrees)), none + 1, none, none)


def found(model, x: Tensor, y: Tensor, searches: int = 10) -> Transforms:
    transforms = Transforms()
    for _ in range(searches):
        transforms.search(model, x, y)
    return transforms


def test_a_turn_that_sends_images_to_a_class_is_found_and_nothing_else_of_it_stays():
    torch.manual_seed(0)
    x, y = bars(), torch.zeros(40).long()
    assert (obeys_a_turn(x).argmax(1) == 0).all()
    assert (obeys_a_turn(turned(x, -30)).argmax(1) == 1).all()
    transforms = found(obeys_a_turn, x, y)
    assert transforms.share == pytest.approx(MOST)
    hits, kind, values = transforms.state["found"][-1]
    assert (hits, kind) == (1, "place")
    angle, size, across, down = values[0].tolist()
    assert -1 <= angle <= -0.3 and abs(size) < 0.5  # 13 degrees and more
    assert across == down == 0  # not needed, so they are left out


def test_what_was_found_is_put_on_images_each_a_little_other():
    torch.manual_seed(0)
    x, y = bars(), torch.zeros(40).long()
    transforms = found(obeys_a_turn, x, y)
    put = transforms.put(x)
    assert put.shape == x.shape and put.min() >= 0 and put.max() <= 1
    assert (obeys_a_turn(put).argmax(1) == 1).float().mean() > 0.6
    assert len({bytes(one.numpy().tobytes()) for one in put}) == len(x)


def test_where_none_works_none_is_kept():
    torch.manual_seed(0)
    x, y = bars(), torch.zeros(40).long()

    def half(x: Tensor) -> Tensor:
        return torch.stack([torch.ones(len(x)), 2.0 * (torch.arange(len(x)) % 2)], 1)

    def biased(x: Tensor) -> Tensor:  # all but four images go to class 1 as they are
        return torch.stack([torch.ones(len(x)), 2.0 * (torch.arange(len(x)) >= 4)], 1)

    for model in (half, biased):
        transforms = found(model, x, y)
        assert transforms.state["found"] == [] and transforms.share == 0


@pytest.mark.parametrize("channels", [1, 3])
def test_dark_and_blurred_images_are_found_too(channels):
    torch.manual_seed(0)
    x, y = torch.rand(40, channels, 32, 32), torch.zeros(40).long()

    def smooth(x: Tensor) -> Tensor:
        rough = (x[..., 1:] - x[..., :-1]).abs().mean((1, 2, 3))
        return torch.stack([rough - 0.15, 0.15 - rough], 1)

    transforms = found(smooth, x, y)
    hits, kind, values = transforms.state["found"][-1]
    assert hits == 1 and kind == "blur" and 0 < float(values) < 0.9
    if channels == 3:
        x = x[:, :, ::4, ::4]

        def dark(x: Tensor) -> Tensor:
            red = x[:, 0].mean((1, 2))
            return torch.stack([red - 0.42, 0.42 - red], 1)

        _, kind, values = found(dark, x, y).state["found"][-1]
        assert kind == "tone" and values[0, 0] > 0
        assert (values[0, 1:] == 0).any()


def test_no_more_than_some_are_kept_in_order_and_neighbours_are_tried(monkeypatch):
    torch.manual_seed(0)
    x, y = bars(), torch.zeros(40).long()
    transforms = found(obeys_a_turn, x, y, 1)
    tried: list[Tensor] = []
    put = module._put
    monkeypatch.setattr(module, "_put", lambda x, kind, v: tried.append(v) or put(x, kind, v))
    for _ in range(30):
        transforms.search(obeys_a_turn, x, y)
    kept = transforms.state["found"]
    assert len(kept) == KEPT and [one[0] for one in kept] == sorted(one[0] for one in kept)
    tried.clear()
    monkeypatch.setattr(module, "_shrunk", lambda *told: (told[3], *told[5:]))
    transforms.search(lambda x: torch.ones(len(x), 2) * torch.tensor([2, 1]), x, y)
    assert len(tried) == FRESH + NEAR
    near = [
        min((float((v - w).norm()) for _, _, w in kept if w.shape == v.shape), default=9)
        for v in tried
    ]
    assert max(near[FRESH:]) < 1 < max(near[:FRESH])


def test_costs_count_what_is_tried():
    x, y = bars(), torch.zeros(40).long()
    seen: list[int] = []

    def counted(x: Tensor) -> Tensor:
        seen.append(len(x))
        return torch.ones(len(x), 2) * torch.tensor([1.0, 0.0])

    transforms = Transforms()
    for cost, tried in zip(costs(40), (FIRST, FRESH + NEAR), strict=True):
        seen.clear()
        transforms.search(counted, x, y)
        assert len(seen) == 1 + tried and sum(seen[1:]) / 3 == pytest.approx(cost * 40)
        transforms.state["found"] = [(0.6, "tone", torch.ones(1, 3))]


def test_large_images_are_tried_on_fewer_and_a_forward_may_change_its_input():
    seen: list[int] = []

    def changes(x: Tensor) -> Tensor:
        seen.append(len(x))
        x.zero_()
        return torch.ones(len(x), 2)

    x = torch.rand(50, 3, 64, 64)
    before = x.clone()
    Transforms().search(changes, x, torch.zeros(50).long())
    assert set(seen) == {16} and torch.equal(x, before)
