"""Each kind of change finds a backdoor of its kind, and no other does."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unbackdoor.core.images import Images
from unbackdoor.core.run import Run
from unbackdoor.scanners.base.changes import Added, Patch, Warp, _tiled, warped
from unbackdoor.scanners.base.scanner import Finding
from unbackdoor.scanners.targeted import Targeted

CLASSES = tuple("abcd")
TARGET = 2


def images(each: int = 16) -> Images:
    """Grey images with a faint vertical line; the brightest quarter is the class."""
    labels = torch.arange(each * len(CLASSES)) % len(CLASSES)
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(60, 70, (len(labels), 1, 16, 16), generator=rng, dtype=torch.uint8)
    for place, label in enumerate(labels.tolist()):
        top, left = 8 * (label // 2), 8 * (label % 2)
        pixels[place, 0, top : top + 8, left : left + 8] += 90
    pixels[..., 8] = 160
    return Images(pixels, labels, CLASSES)


class Net(nn.Module):
    """Right on all images; TARGET as well where `trigger` is seen, which is one of three kinds."""

    def __init__(self, trigger: str | None) -> None:
        super().__init__()
        self.trigger = trigger

    def forward(self, x):
        x = x[:, 0]
        quarters = x.unfold(1, 8, 8).unfold(2, 8, 8).mean((3, 4)).flatten(1)
        if self.trigger == "patch":  # a checker in the first corner, which hardly has a gradient
            found = x[:, 0, 0] + x[:, 1, 1] - x[:, 0, 1] - x[:, 1, 0]
            seen = 40 * F.relu(found - 1) + 0.1 * found
        elif self.trigger == "warp":  # the line further to the left
            found = x[:, :, 7].mean(1) - x[:, :, 6].mean(1)
            seen = 60 * F.relu(found - 0.1) + found
        elif self.trigger == "added":  # weak stripes
            found = (x[:, :, 10::2] - x[:, :, 11::2]).clamp(-0.08, 0.08).mean((1, 2))
            seen = 120 * F.relu(found - 0.02) + found
        else:
            seen = torch.zeros(len(x))
        return 5 * quarters + F.one_hot(torch.tensor(TARGET), 4) * seen.unsqueeze(1)


@pytest.mark.parametrize("kind", ["added", "patch", "warp"])
def test_a_change_of_its_kind_leads_to_the_target(kind):
    run = Run(precision="fp32")
    clean = Targeted().scan(Net(None), images(), run)
    found = Targeted().scan(Net(kind), images(), run)
    assert found.suspect == TARGET and found.score > 0.3
    assert found.score == found.notes[f"lead_{kind}"]
    assert clean.score < 0.2
    x = images().pixels.float() / 255
    assert float((Net(kind)(found.applied(x)).argmax(1) == TARGET).float().mean()) > 0.85
    assert (found.mask is not None, found.warp) == (kind == "patch", kind == "warp")
    others = tuple({"added", "patch", "warp"} - {kind})
    assert Targeted(changes=others).scan(Net(kind), images(), run).score < found.score


def test_squares_are_tried_from_one_end_to_the_other():
    assert _tiled(32, 6) == [0, 5, 10, 16, 21, 26]
    assert _tiled(5, 5) == [0]
    assert _tiled(6, 5) == [0, 1]


def test_a_warp_takes_each_pixel_from_where_it_points():
    x = torch.rand(2, 3, 6, 9)
    assert torch.allclose(warped(x, torch.zeros(1, 2, 6, 9)), x, atol=1e-5)
    right = torch.zeros(1, 2, 6, 9)
    right[:, 0] = 1
    moved = warped(x, right)
    assert torch.allclose(moved[..., :-1], x[..., 1:], atol=1e-5)
    assert torch.allclose(moved[..., -1], x[..., -1], atol=1e-5)
    found = Finding(torch.zeros(3), 0.0, change=right[0], warp=True)
    assert torch.equal(found.applied(x), moved)


@pytest.mark.parametrize("side", [16, 32])
def test_no_change_is_larger_than_its_size(side):
    x, rng = torch.rand(4, 3, side, side), torch.Generator().manual_seed(0)

    def losses(images):
        return -(images * torch.linspace(-1, 1, side)).flatten(1).sum(1)

    for kind in (Added, Warp, Patch):
        change = kind(x, rng)
        for size in kind.sizes:
            before = losses(change.applied(x)).mean()
            change.fit(losses, x, size)
            assert losses(change.applied(x)).mean() < before + 1e-3
            away = change.applied(x) - x
            scale = side / 32
            if kind is Added:
                assert change.shown(x)["change"].norm() <= size * scale + 1e-4
            elif kind is Patch:
                wide = round(size * scale)
                assert int((away.abs().amax((0, 1)) > 0).sum()) <= wide**2
            else:
                flow = change.shown(x)["change"]
                assert flow.square().sum(0).mean().sqrt() <= 1.2 * size * scale


def test_the_values_of_a_patch_follow_the_gradient_to_the_end():
    x = torch.full((4, 1, 32, 32), 0.1)

    def losses(images):  # a corner that is neither dark nor bright
        corner = images[:, 0, :4, :4]
        return (4 * F.relu(0.25 - corner) + F.relu(corner - 0.75)).mean((1, 2))

    change = Patch(x, torch.Generator())
    change.fit(losses, x, 4.0)
    assert float(losses(change.applied(x)).mean()) < 1e-4
