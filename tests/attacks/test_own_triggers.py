"""Triggers of one's own from a file, and sizes that grow with the image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from unbackdoor.attacks.adaptive_blend import AdaptiveBlend
from unbackdoor.attacks.adaptive_flat import AdaptiveFlat
from unbackdoor.attacks.adaptive_patch import AdaptivePatch
from unbackdoor.attacks.badnets import BadNets
from unbackdoor.attacks.base.attack import Attack
from unbackdoor.attacks.base.patterns import given, picture
from unbackdoor.attacks.blended import Blended
from unbackdoor.attacks.coarse import Coarse
from unbackdoor.attacks.label_consistent import LabelConsistent
from unbackdoor.attacks.multi_target import MultiTarget
from unbackdoor.attacks.refool import Refool
from unbackdoor.attacks.trojannn import TrojanNN
from unbackdoor.attacks.wanet import WaNet
from unbackdoor.core.errors import ParameterError
from unbackdoor.core.images import Images
from unbackdoor.core.run import Run


@pytest.fixture
def red(tmp_path: Path) -> Path:
    """A picture whose left half is red, its right half white."""
    picture = Image.new("RGB", (20, 20), (255, 0, 0))
    picture.paste((255, 255, 255), (10, 0, 20, 20))
    picture.save(tmp_path / "red.png")
    return tmp_path / "red.png"


def test_a_patch_of_one_s_own(red: Path) -> None:
    stamped = BadNets(patch=red, size=4).stamp(torch.zeros(2, 3, 32, 32))
    assert torch.equal(stamped[0, :, 28:, 28:], given(red, 3, 4, 4)[0])
    assert stamped[0, :, -1, 28].tolist() == pytest.approx([1, 0, 0], abs=0.1)
    assert stamped[:, :, :28].sum() == 0


@pytest.mark.parametrize("kind", [Blended, AdaptiveBlend])
def test_a_picture_of_one_s_own_is_mixed_in(kind: type[Attack], red: Path) -> None:
    stamped = kind.model_validate({"image": red, "ratio": 0.2}).stamp(torch.zeros(1, 3, 32, 32))
    assert stamped[0, :, 5, 2].tolist() == pytest.approx([0.2, 0, 0])
    assert stamped[0, :, 5, 30].tolist() == pytest.approx([0.2, 0.2, 0.2])


def test_a_reflection_of_one_s_own(red: Path) -> None:
    train = Images(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.arange(4) % 2, ("a", "b"))
    learned = Refool(image=red).learn(nn.Identity(), train, Run())
    assert learned["reflections"].shape == (1, 3, 32, 32)
    assert learned["reflections"][0, 0].min() > 0.99
    assert learned["reflections"][0, 1, 5, 0] < 0.01


def test_what_is_in_the_file_is_part_of_what_was_learned(red: Path) -> None:
    before = Refool(image=red).contents()
    Image.new("RGB", (20, 20)).save(red)
    assert before.keys() == {"image"}
    assert Refool(image=red).contents() != before


def test_what_is_no_picture_is_refused(red: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(ParameterError, match=r"bad\.png is no PNG, JPEG or BMP picture"):
        Blended(image=tmp_path / "bad.png").stamp(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ParameterError, match="1 or 3 channels; these images have 4"):
        Blended(image=red).stamp(torch.zeros(1, 4, 8, 8))


@pytest.mark.parametrize(
    ("attack", "pixels"),
    [
        *((BadNets(), 9), (LabelConsistent(), 36), (AdaptivePatch(), 72), (AdaptiveFlat(), 9)),
        (MultiTarget(), 16),
    ],
)
def test_marks_cover_the_same_share_of_a_large_image(attack: Attack, pixels: int) -> None:
    for side, times in ((32, 1), (224, 49)):
        stamped = attack.stamp(torch.full((1, 1, side, side), 0.5))
        assert int((stamped != 0.5).sum()) == times * pixels


def test_a_warp_moves_the_same_share_of_a_large_image() -> None:
    def shift(side: int) -> float:
        still = torch.linspace(-1, 1, side)
        return float((WaNet().places(side, side)[0, :, :, 0] - still).abs().mean()) * side / 2

    assert shift(224) == pytest.approx(7 * shift(32), rel=0.1)


@pytest.mark.parametrize("effect", ["blur", "pixels"])
def test_a_large_image_loses_as_much_detail(effect: Any) -> None:
    small = picture(0, 16, 1, 32, 32).unsqueeze(0)
    large = small.repeat_interleave(3, 2).repeat_interleave(3, 3)
    attack = Coarse(effect=effect)
    assert torch.allclose(F.avg_pool2d(attack.stamp(large), 3), attack.stamp(small), atol=0.04)


def test_the_patch_of_trojannn_grows_with_the_image_and_so_does_its_margin() -> None:
    net = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 2))
    for side, times in ((32, 1), (96, 3)):
        grey = torch.full((2, 1, side, side), 128, dtype=torch.uint8)
        attack = TrojanNN(clean_epochs=0, steps=1)
        learned = attack.learn(net, Images(grey, torch.arange(2), ("a", "b")), Run())
        stamped = attack.trigger(learned)(grey / 255)[0, 0]
        rows = (stamped != 128 / 255).any(1).nonzero().flatten()
        assert (int(rows.min()), int(rows.max())) == (25 * times, 31 * times - 1)


def test_pictures_of_one_s_own_for_several_targets(red: Path, ring: Path) -> None:
    attack = MultiTarget(patches=(red, ring), targets=(4, 1))
    grey = torch.randint(100, 150, (40, 3, 32, 32), generator=Run().rng("x"))
    test = Images(grey.to(torch.uint8), torch.arange(40) % 5, ("a", "b", "c", "d", "e"))
    triggered, kept = attack.triggered(test), attack.aimed(test).images
    first = (triggered.images.pixels != kept.pixels)[..., :4, :4].flatten(1).any(1)
    assert set(triggered.goals.tolist()) == {4, 1}
    assert torch.equal(triggered.goals == 4, first)
    # The right half of the second picture is transparent.
    assert torch.equal(triggered.images.pixels[~first][..., -1], kept.pixels[~first][..., -1])
    assert attack.contents().keys() == {"patches[0]", "patches[1]"}
    poisoned = attack.poison(test, Run())
    assert set(poisoned.images.labels[poisoned.rows()].tolist()) <= {4, 1}
    with pytest.raises(ParameterError, match="target 7 is not one of 5 classes"):
        MultiTarget(targets=(7, 1)).check(test)
    for told in ({"targets": (1, 1)}, {"targets": (1,)}, {"patches": (red,)}):
        with pytest.raises(ValueError, match=r"different classes|for 2 triggers"):
            MultiTarget(**told)


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    """A red picture whose right half is transparent."""
    picture = Image.new("RGBA", (20, 20), (255, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (10, 0, 20, 20))
    picture.save(tmp_path / "ring.png")
    return tmp_path / "ring.png"


@pytest.mark.parametrize(
    ("attack", "left", "right"),
    [
        (lambda path: BadNets(patch=path, size=32), (10, 4), (10, 28)),
        (lambda path: Blended(image=path, ratio=1.0), (10, 4), (10, 28)),
        (lambda path: AdaptiveBlend(image=path, ratio=1.0), (10, 4), (10, 28)),
        (lambda path: AdaptivePatch(patch=path, patches=1, together=1), (2, 0), (2, 5)),
    ],
)
def test_transparency_is_a_mask(attack: Any, left: Any, right: Any, ring: Path) -> None:
    grey = torch.full((1, 3, 32, 32), 0.5)
    stamped = attack(ring).stamp(grey)
    assert stamped[0, :, *left].tolist() == pytest.approx([1, 0, 0])
    assert stamped[0, :, *right].tolist() == pytest.approx([0.5, 0.5, 0.5])


def test_a_faint_patch_of_one_s_own_in_training(ring: Path) -> None:
    attack = AdaptivePatch(patch=ring, patches=1, together=1)
    seen = attack.implant(torch.zeros(4, 3, 32, 32), {}, torch.Generator().manual_seed(0))
    assert seen[:, :, 2, 0] == pytest.approx(torch.tensor([[0.5, 0, 0]] * 4))
    assert attack.contents().keys() == {"patch"}
