"""Refool: how a reflection is chosen, blurred and mixed in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from unbackdoor.attacks.base.patterns import picture
from unbackdoor.attacks.refool import Refool
from unbackdoor.core.errors import ParameterError
from unbackdoor.core.images import Images
from unbackdoor.core.run import Run

from .conftest import Digits


def test_refool_mixes_in_linear_light(digits: Digits, clean: nn.Module) -> None:
    attack = Refool(reflections=3, ratio=0.4)
    pictures = torch.tensor([1.0]).view(1, 1, 1, 1).expand(3, 3, 16, 16)
    black = torch.zeros(1, *digits[0].shape)
    # A white reflection on black is 0.4 of the light, which is 0.66 on the screen.
    white = attack.trigger({"reflections": pictures})(black)
    assert white.unique().tolist() == pytest.approx([0.4 ** (1 / 2.2)])
    learned = attack.learn(clean, digits[0], Run())
    ghost = learned["reflections"][:1].clamp(0, 1)
    assert len(learned["reflections"]) == 3
    assert torch.allclose(attack.trigger(learned)(black), (0.4 * ghost**2.2) ** (1 / 2.2))
    same = attack.trigger({"reflections": black})(black)
    assert same.abs().max() < 1e-6


def test_refool_ghost_is_the_picture_twice() -> None:
    x = torch.zeros(1, 1, 8, 8)
    x[0, 0, 3, 3] = 1
    ghost = Refool(shift=4)._ghost(x)
    assert ghost.sum() == pytest.approx((8 / 12) ** 2, abs=0.05)
    peaks = (ghost[0, 0] > 0.04).nonzero()
    assert peaks.min() < 3 < 4 < peaks.max()


def test_the_ghosts_of_a_large_image_lie_as_far_apart() -> None:
    x = picture(0, 8, 1, 32, 32).round().unsqueeze(0)
    ghost = Refool()._ghost(x)
    large = Refool()._ghost(x.repeat_interleave(3, 2).repeat_interleave(3, 3))
    assert (F.avg_pool2d(large, 3) - ghost).abs().mean() < 0.02


def test_refool_blur_is_the_picture_out_of_focus(digits: Digits) -> None:
    # A wave of four periods under a Gaussian of four cycles keeps exp(-1/2) of its height.
    wave = 0.5 + 0.4 * torch.cos(2 * torch.pi * 4 * torch.arange(16) / 16)
    pixels = (wave * 255).round().to(torch.uint8).expand(1, 1, 16, 16).contiguous()
    train = Images(pixels, torch.tensor([1]), ("a", "b"))
    attack = Refool(effect="blur", ratio=0.5)
    learned = attack.learn(nn.Identity(), train, Run())
    out_of_focus = (0.5 + (wave - 0.5) * 0.60653).expand(1, 1, 16, 16)
    assert torch.allclose(learned["reflections"], out_of_focus, atol=0.002)


def test_refool_picks_the_reflection_by_the_sum_of_the_pixels() -> None:
    learned = {"reflections": torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2)}
    x = torch.tensor([[3, 0, 0, 0], [1, 1, 1, 1], [0, 0, 2, 0], [0, 6, 0, 0]]).view(4, 1, 2, 2)
    x = x / 255
    blended = Refool(ratio=0.5).trigger(learned)(x)
    # Sums of 3, 4, 2 and 6 levels, modulo three pictures.
    shown = [(0.5 * level**2.2) ** (1 / 2.2) for level in (0, 0.5, 1, 0)]
    assert blended.amax((1, 2, 3)).tolist() == pytest.approx(shown, abs=0.02)


def test_refool_reflects_the_pictures_of_most_contrast() -> None:
    pixels = torch.full((20, 1, 8, 8), 90, dtype=torch.uint8)
    pixels[11:13, :, :, 4:] = torch.tensor([250, 160], dtype=torch.uint8).view(2, 1, 1, 1)
    train = Images(pixels, torch.ones(20, dtype=torch.int64), ("a", "b"))
    sharp, faint = Refool(reflections=2, drawn=20).learn(nn.Identity(), train, Run())["reflections"]
    assert sharp.max() - sharp.min() > faint.max() - faint.min() > 0.2


def test_refool_reflects_no_image_of_the_target_class() -> None:
    pixels = torch.tensor([255, 0], dtype=torch.uint8).repeat(10).view(20, 1, 1, 1)
    train = Images(pixels.expand(-1, 3, 8, 8).contiguous(), torch.arange(20) % 2, ("a", "b"))
    learned = Refool(reflections=10).learn(nn.Identity(), train, Run())
    assert learned["reflections"].abs().max() < 1e-6
    with pytest.raises(ParameterError, match=r"11 reflections are wanted .* there are 10"):
        Refool(reflections=11).learn(nn.Identity(), train, Run())


def test_a_picture_leaves_the_image_alone_where_it_is_transparent(tmp_path) -> None:
    picture = np.zeros((32, 32, 4), np.uint8)
    picture[:, 16:] = (255, 255, 255, 255)  # the left half is black, and transparent
    Image.fromarray(picture).save(tmp_path / "half.png")
    attack = Refool(image=tmp_path / "half.png", effect="blur", ratio=0.4)
    images = Images(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.arange(4), tuple("abcd"))
    grey = torch.full((1, 3, 32, 32), 0.5)
    found = attack.trigger(attack.learn(nn.Identity(), images, Run()))(grey)
    assert (found[..., 4] - 0.5).abs().max() < 0.02
    assert found[..., 24].min() > 0.6
