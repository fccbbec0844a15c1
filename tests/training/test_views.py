"""Views of few images."""

import torch
from torch import nn

from unbackdoor.core.images import Images
from unbackdoor.core.run import Run
from unbackdoor.training import views


def left_or_right(n: int = 40) -> Images:
    """Images that are bright on the left (class 0) or on the right (class 1)."""
    pixels = torch.zeros(n, 1, 8, 8, dtype=torch.uint8)
    labels = torch.arange(n) % 2
    pixels[labels == 0, :, :, :4] = 200
    pixels[labels == 1, :, :, 4:] = 200
    return Images(pixels, labels, ("left", "right"))


class Side(nn.Module):
    """Tells the brighter half."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[..., :4].mean((1, 2, 3)), x[..., 4:].mean((1, 2, 3))], 1)


class Bright(nn.Module):
    """Tells how bright an image is, mirrored or not."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean((1, 2, 3))
        return torch.stack([0.5 - mean, mean - 0.5], 1)


def test_images_are_mirrored_only_where_the_model_tells_them_as_well():
    sides = left_or_right()
    assert not views.mirrors(Side(), sides, Run())
    assert views.for_few(Side(), sides, Run()) == views.View(cropped=True)
    bright = Images(sides.pixels, torch.zeros_like(sides.labels), sides.classes)
    assert views.mirrors(Bright(), bright, Run())
    assert views.for_few(Bright(), bright, Run()) == views.View(cropped=True, mirrored=True)


def test_a_view_crops_and_another_mirrors_too():
    torch.manual_seed(0)
    x = torch.rand(64, 3, 32, 32)
    corner = x.clone()
    corner[..., :16] = 0
    assert torch.equal(views.View()(x), x)
    cropped = views.View(cropped=True)
    assert not torch.equal(cropped(x), x) and cropped(x).shape == x.shape
    left = cropped(corner)[..., :12].amax((1, 2, 3))
    assert bool((left == 0).all())  # moved by 4 pixels at most
    left = views.View(cropped=True, mirrored=True)(corner)[..., :12].amax((1, 2, 3))
    assert 16 < int((left > 0).sum()) < 48


def test_a_mixed_image_is_mostly_itself():
    torch.manual_seed(0)
    levels = torch.arange(64.0)
    x = levels.view(-1, 1, 1, 1).expand(-1, 1, 4, 4) / 64
    seen = views.View(mixed=True)(x)
    assert torch.equal(seen, seen[..., :1, :1].expand_as(seen))  # one share for a whole image
    away = (seen - x)[:, 0, 0, 0]
    assert (away != 0).sum() > 56
    assert -0.5 * levels[:, None].max() / 64 <= away.min() and away.max() <= 0.5
    nearest = (x[:1] - x).abs()[:, 0, 0, 0]  # what another image could do to the first at most
    assert (away.abs() <= 0.5 * torch.maximum(nearest, nearest.flip(0)) + 1e-6).all()


def test_what_a_view_does_is_noted():
    assert views.View().notes() == {"cropped": 0, "mirrored": 0, "mixed": 0}
    assert views.View(cropped=True, mixed=True).notes() == {"cropped": 1, "mirrored": 0, "mixed": 1}
