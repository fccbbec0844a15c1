import pytest
import torch
from torch import nn

from defenses.samples import backdoored
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
        cover, values = found_patch(net, x, 1, 3)
        assert cover.shape == (1, 1, 32, 32) and values.shape == (1, 3, 32, 32)
        side = round(cover.sum().sqrt().item())
        assert 3 <= side <= 6
        rows = cover[0, 0].any(1).nonzero()
        assert rows.min() >= 32 - 6 and len(rows) == side  # where the trigger is
        assert (values[..., -3:, -3:] > 0.9).all()
        stamped = torch.lerp(x, values, cover)
        assert (net(stamped).argmax(1) == 1).float().mean() == (1.0 if side > 2 else 0.0)


def test_the_first_search_tries_every_class_and_later_ones_prefer_what_worked():
    torch.manual_seed(0)
    net, x, y = corner()
    found = Patches(2)
    found.search(net, x, y)
    assert len(found.state["found"]) == 4
    assert found.state["hits"][1] == 1 and found.state["hits"][2] == 0
    for _ in range(40):
        found.search(net, x, y)
    assert len(found.state["found"]) == KEPT
    shares = [share for share, _, _ in found.state["found"]]
    assert sum(share == 1 for share in shares) > KEPT / 2


def test_the_weakest_patch_goes_not_the_oldest():
    torch.manual_seed(0)
    net, x, y = corner()
    found = Patches(2)
    found.search(net, x, y)
    with torch.no_grad():
        net[1].weight.zero_()
    for _ in range(2 * KEPT):
        found.search(net, x, y)
    shares = [share for share, _, _ in found.state["found"]]
    assert len(shares) == KEPT and max(shares) == 1 and sorted(shares)[-2] == 0


def test_patches_stay_after_the_model_no_longer_obeys():
    torch.manual_seed(0)
    net, x, y = corner()
    found = Patches(2)
    found.search(net, x, y)
    with torch.no_grad():
        net[1].weight.zero_()
    found.search(net, x, y)
    put = found.put(torch.zeros(200, 3, 32, 32))
    assert (put[:, :, -6:, -6:].amax((1, 2, 3)) > 0).sum() > 150  # still mostly in that corner


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
    assert len({bytes(one.numpy().tobytes()) for one in put[:, :, -6:, -6:]}) == len(x)


@pytest.mark.parametrize(("size", "first"), [(16, 40), (32, 40), (64, 16), (48, 17)])
def test_of_larger_images_fewer_are_searched(size, first):
    seen = []
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, 2))
    net.register_forward_pre_hook(lambda _, x: seen.append(len(x[0])))
    Patches(1).search(net, torch.rand(40, 3, size, size), torch.zeros(40, dtype=torch.long))
    assert set(seen) == {1, first}  # one image tells how many classes there are


@pytest.mark.parametrize("classes", [2, 30])
def test_few_and_many_classes(classes):
    clean, net = backdoored(classes=classes)
    found = Patches(1)
    found.search(net, clean.pixels / 255, clean.labels)
    assert len(found.state["found"]) == min(classes, 20)
    assert len(found.state["hits"]) == classes
    assert found.put(clean.pixels[:3] / 255).shape == (3, 1, 8, 8)
