import pytest
import torch
from torch import nn

from defenses.samples import backdoored
from unbackdoor.training import patches as module
from unbackdoor.training.patches import KEPT, Patches, found_patch


def corner(size=32, classes=4, target=1):
    """A net that sends every image with a white lower right corner to `target`, and grey images."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, classes))
    with torch.no_grad():
        net[1].weight.zero_()
        net[1].bias.zero_()
        net[1].bias[0] = 2.0
        weight = net[1].weight.view(classes, 3, size, size)
        weight[target, :, -4:, -4:] = 0.5
    return net, torch.rand(20, 3, size, size) * 0.2, torch.zeros(20, dtype=torch.long)


def test_the_gradient_tells_place_and_values_of_a_trigger():
    torch.manual_seed(0)
    net, x, _ = corner()
    for _ in range(4):
        (top, bottom, left, right), values = found_patch(net, x, 1, 3)
        assert values.shape == (1, 3, 32, 32)
        assert 3 <= bottom - top == right - left <= 6
        assert top >= 32 - 6 and left >= 32 - 6 and max(bottom, right) <= 32  # where the trigger is
        assert (values[..., -3:, -3:] > 0.9).all()
        stamped = x.clone()
        inside = (slice(top, bottom), slice(left, right))
        stamped[:, :, *inside] = values[:, :, *inside]
        assert (net(stamped).argmax(1) == 1).all()


def test_a_trigger_is_found_where_the_gradient_hardly_pulls():
    """What a model knows well may lie behind units that are silent on images without it."""
    torch.manual_seed(0)

    def net(x):
        centre, trigger = x[..., 12:20, 12:20].sum((1, 2, 3)), x[..., -6:, -6:].mean((1, 2, 3))
        known = 100 * (trigger - 0.6).relu() + 1e-4 * trigger
        return torch.stack([torch.full((len(x),), 2.0), 0.005 * centre + known], 1)

    x = torch.rand(40, 3, 32, 32) * 0.2
    square, values = found_patch(net, x, 1, 3)
    assert min(square[0], square[2]) >= 24
    assert (net(torch.lerp(x, values, module.covering(square, x))).argmax(1) == 1).all()


def test_a_step_that_leads_away_is_not_taken(monkeypatch):
    net, x, _ = corner()
    monkeypatch.setattr(module, "stepped", lambda values, _: torch.zeros_like(values))
    square, values = found_patch(net, x, 1, 3)
    assert (net(torch.lerp(x, values, module.covering(square, x))).argmax(1) == 1).all()


@pytest.mark.parametrize(("size", "places"), [((32, 32), 196), ((28, 20), 196), ((224, 160), 49)])
def test_squares_cover_the_whole_image(size, places):
    squares = module._squares(torch.rand(1, 3, *size))
    assert len(set(squares)) == places
    cover = sum(module.covering(each, torch.rand(1, 3, *size)) for each in squares)
    assert cover.min() >= 1
    sides = {(bottom - top, right - left) for top, bottom, left, right in squares}
    assert sides == {(round(0.2 * min(size)),) * 2}


@pytest.mark.parametrize("size", [1, 2, 5])
def test_images_too_small_for_so_many_places(size):
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, 2))
    (top, bottom, left, right), _ = found_patch(net, torch.rand(3, 3, size, size), 1, 1)
    assert bottom == top + 1 <= size and right == left + 1 <= size


def test_costs_count_what_a_search_does():
    """One that works costs more, for it is made smaller: this net obeys nothing."""
    done = []
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 30))
    for parameter in net.parameters():
        parameter.data.zero_()

    def counted(_, given):
        done.append(len(given[0]) * (1 if torch.is_grad_enabled() else 1 / 3))

    net.register_forward_pre_hook(counted)
    patches, x, y = Patches(3), torch.rand(100, 3, 32, 32), torch.zeros(100, dtype=torch.long)
    for cost in Patches(3).costs(30, 100):
        done.clear()
        patches.search(net, x, y)
        assert sum(done) / 100 == pytest.approx(cost, rel=0.1)


def test_the_first_search_tries_every_class_and_later_ones_prefer_what_worked():
    torch.manual_seed(0)
    net, x, y = corner()
    found = Patches(2)
    found.search(net, x, y)
    assert sum(share <= 0.5 for share, *_ in found.state["found"]) == 3  # one for other classes
    assert found.state["hits"][1] == 1 and found.state["hits"][2] == 0
    for _ in range(40):
        found.search(net, x, y)
    assert len(found.state["found"]) == KEPT
    shares = [share for share, *_ in found.state["found"]]
    assert sum(share == 1 for share in shares) > KEPT / 2


@pytest.mark.parametrize(("size", "classes", "tried"), [(32, 43, 43), (32, 60, 50), (40, 43, 25)])
def test_so_many_classes_are_tried_at_first(size, classes, tried, monkeypatch):
    sought = []

    def found(model, x, towards, steps):
        sought.append(towards)
        return (0, 2, 0, 2), x[:1]

    monkeypatch.setattr(module, "found_patch", found)
    net, x, y = corner(size, classes)
    Patches(1).search(net, x, y)
    assert len(sought) == len(set(sought)) == tried


def test_the_weakest_patch_goes_not_the_oldest():
    torch.manual_seed(0)
    net, x, y = corner()
    found = Patches(2)
    found.search(net, x, y)
    worked = sum(share > 0.5 for share, *_ in found.state["found"])
    with torch.no_grad():
        net[1].weight.zero_()
    for _ in range(2 * KEPT):
        found.search(net, x, y)
    shares = [share for share, *_ in found.state["found"]]
    assert len(shares) == KEPT and worked >= 1
    assert shares[:-worked] == [0] * (KEPT - worked) and min(shares[-worked:]) > 0.5


def test_patches_stay_after_the_model_no_longer_obeys():
    torch.manual_seed(0)
    net, x, y = corner()
    found = Patches(2)
    found.search(net, x, y)
    with torch.no_grad():
        net[1].weight.zero_()
    found.search(net, x, y)
    put = found.put(torch.zeros(200, 3, 32, 32))
    # Still mostly in that corner; some of them are black.
    assert (put[:, :, -7:, -7:].amax((1, 2, 3)) > 0).sum() > 120


def test_no_patch_is_put_on_as_it_was_found_and_pixels_stay_in_range():
    torch.manual_seed(0)
    net, x, y = corner()
    found = Patches(2)
    found.search(net, x, y)
    put = found.put(x)
    assert put.shape == x.shape and put.min() >= 0 and put.max() <= 1
    changed = (put != x).any(1)
    assert changed.flatten(1).any(1).all()
    assert changed.float().mean() < 0.06  # nothing but the squares
    assert len({bytes(one.numpy().tobytes()) for one in put}) == len(x)


@pytest.mark.parametrize("exactly", [False, True])
def test_a_plain_trigger_is_found_though_the_gradient_chose_other_colours(exactly, monkeypatch):
    """The net obeys red at least in rows 20 to 23 and columns 8 to 11, not what was found there.

    Or in these alone: red in all of the square that was found does nothing.
    """

    def obeys(x):
        red = (x[:, 0] > 0.9) & (x[:, 1:] < 0.1).all(1)
        won = red[:, 20:24, 8:12].flatten(1).all(1)
        if exactly:
            won &= ~red[:, 19, 8:12].all(1)
        return torch.stack([torch.full((len(x),), 0.5), won.float()], 1)

    values = torch.rand(1, 3, 32, 32)
    found = Patches(1)
    found.state["hits"] = [1.0, 0.0]
    monkeypatch.setattr(module, "found_patch", lambda *_: ((18, 24, 8, 14), values))
    monkeypatch.setattr(module, "OBEYED", -1.0)  # as if the patch had worked
    x, y = torch.rand(20, 3, 32, 32), torch.zeros(20, dtype=torch.long)
    found._search(obeys, x, y, 1)
    hits, box, _, colour = found.state["found"][-1]
    assert hits == 1 and box == (20, 24, 8, 12)
    assert colour[0, :, 0, 0].tolist() == [1, 0, 0]


def test_a_patch_is_put_on_as_small_as_it_works_as_large_as_it_was_found_and_between():
    torch.manual_seed(0)
    found = Patches(1)
    found.state["found"] = [(1.0, (4, 6, 2, 3), (3, 6, 0, 5), torch.ones(1, 1, 8, 8))]
    drawn = [module._size((4, 6, 2, 3), (3, 6, 0, 5)) for _ in range(900)]
    assert all(drawn.count(end) > 250 for end in ((4, 6, 2, 3), (3, 6, 0, 5)))
    tops, bottoms, lefts, rights = map(set, zip(*set(drawn), strict=True))
    assert (tops, bottoms, lefts, rights) == ({3, 4}, {6}, {0, 1, 2}, {3, 4, 5})
    puts = torch.cat([found.put(torch.zeros(4, 1, 8, 8)) for _ in range(100)])
    sizes = {int(count) for count in (puts == 1).flatten(1).sum(1)}
    assert {2, 15} <= sizes and max(sizes) == 15  # the smallest, the whole square, no larger one


def test_plain_colours_are_tried_only_where_a_patch_works(monkeypatch):
    torch.manual_seed(0)
    net, x, y = corner()
    for limit, more in ((0.5, True), (1.5, False)):
        monkeypatch.setattr(module, "OBEYED", limit)
        found = Patches(2)
        found.search(net, x, y)
        assert (len(found.state["found"]) > 4) == more


@pytest.mark.parametrize(("channels", "count"), [(1, 2), (3, 8), (4, 2)])
def test_the_strongest_colours_of_images(channels, count):
    colours = module._colours(torch.rand(2, channels, 4, 4))
    assert colours.shape == (count, channels, 1, 1)
    assert len({tuple(one.flatten().tolist()) for one in colours}) == count


@pytest.mark.parametrize(("size", "first"), [(16, 40), (32, 20), (64, 16), (48, 16)])
def test_of_larger_images_fewer_are_searched(size, first):
    seen = []
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, 2))
    net.register_forward_pre_hook(lambda _, x: seen.append(len(x[0])))
    Patches(1).search(net, torch.rand(40, 3, size, size), torch.zeros(40, dtype=torch.long))
    assert max(seen) == first


@pytest.mark.parametrize("classes", [2, 30])
def test_few_and_many_classes(classes):
    clean, net = backdoored(classes=classes)
    found = Patches(1)
    found.search(net, clean.pixels / 255, clean.labels)
    assert min(classes, 20) <= len(found.state["found"]) <= KEPT
    assert len(found.state["hits"]) == classes
    assert found.put(clean.pixels[:3] / 255).shape == (3, 1, 8, 8)


@pytest.mark.parametrize(("side", "asked"), [(6, 17), (40, 33)])
def test_a_large_patch_shrinks_in_larger_steps(side, asked):
    """To the third of it that it needs; one pixel at a time 40 would take over 110."""
    needed, tried = side // 3, []

    def hits(box):
        tried.append(box)
        top, bottom, left, right = box
        return float(top <= needed and left <= needed and min(bottom, right) >= 2 * needed)

    top, bottom, left, right = module._shrunk((0, side, 0, side), hits)
    step = max(1, side // 8)
    assert (
        needed - step < top == left <= needed and 2 * needed <= bottom == right < 2 * needed + step
    )
    assert len(tried) <= asked


def test_patches_stay_on_the_device_they_were_found_on(monkeypatch):
    net, x, y = corner()
    monkeypatch.setattr(torch.Tensor, "cpu", lambda _: pytest.fail("copied to the CPU"))
    found = Patches(1)
    found.search(net, x, y)
    assert all(values.device == x.device for *_, values in found.state["found"])


def test_patches_of_a_saved_state_go_to_the_device_of_the_images(monkeypatch):
    found = Patches(1)
    found.state["found"] = [
        (1.0, (0, 4, 0, 4), (0, 4, 0, 4), torch.ones(1, 1, 8, 8, device=at))
        for at in ("meta", "cpu")
    ]
    assert found.put(torch.zeros(6, 1, 8, 8, device="meta")).device.type == "meta"
