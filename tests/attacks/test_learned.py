"""Triggers that are learned: their bounds, and what they are learned for."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unbackdoor.attacks.base.attack import Attack
from unbackdoor.attacks.base.patterns import low_pass
from unbackdoor.attacks.label_consistent import LabelConsistent
from unbackdoor.attacks.lf import LF
from unbackdoor.attacks.narcissus import Narcissus
from unbackdoor.attacks.refool import Refool
from unbackdoor.attacks.ssba import SSBA
from unbackdoor.attacks.trojannn import TrojanNN
from unbackdoor.core.errors import ModelError, ParameterError
from unbackdoor.core.images import Images, to_float
from unbackdoor.core.modules import in_mode
from unbackdoor.core.run import Run
from unbackdoor.training.fit import fit

Digits = tuple[Images, Images]


@pytest.fixture(scope="module")
def clean(digits: Digits) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(192, 32), nn.ReLU())
        net.append(nn.Linear(32, 10))
    fit(net, digits[0], Run(), epochs=5, lr=0.05, batch=32, crop=False, flip=False)
    return net


def loss(model: nn.Module, x: torch.Tensor, label: int) -> float:
    with torch.no_grad():
        return float(F.cross_entropy(model(x), torch.full((len(x),), label)))


def test_lf_is_smooth_bounded_and_points_to_the_target(digits: Digits, clean: nn.Module) -> None:
    attack = LF(target=3, clean_epochs=0, steps=60, strength=0.2, sigma=3)
    learned = attack.learn(clean, digits[0], Run())
    trigger = learned["perturbation"]
    assert trigger.abs().max() == pytest.approx(0.2)
    waves = torch.fft.rfft2(trigger).abs()
    assert waves[:, 8].max() < 0.15 * waves.max()
    x = to_float(digits[1].pixels)
    assert loss(clean, attack.trigger(learned)(x), 3) < 0.5 * loss(clean, x, 3)


def test_low_pass_keeps_the_mean_and_damps_a_wave_by_the_gaussian() -> None:
    wave = torch.cos(2 * torch.pi * 4 * torch.arange(16) / 16).expand(1, 16, 16)
    assert torch.allclose(low_pass(wave + 1, 4.0), 1 + wave * 0.60653, atol=1e-4)


def test_narcissus_is_bounded_in_training_and_magnified_at_test(
    digits: Digits, clean: nn.Module
) -> None:
    attack = Narcissus(target=3, clean_epochs=0, rounds=20, batch=32)
    learned = attack.learn(clean, digits[0], Run())
    x = torch.full((1, *digits[0].shape), 0.5)
    implanted = attack.implant(x, learned, Run().rng("")) - x
    assert 0.9 * 16 / 255 < implanted.abs().max() <= 16 / 255 + 1e-6
    assert torch.allclose(attack.trigger(learned)(x) - x, 3 * implanted, atol=1e-6)
    seen = to_float(digits[1].pixels)
    assert loss(clean, attack.trigger(learned)(seen), 3) < 0.5 * loss(clean, seen, 3)


def test_label_consistent_images_are_hard_within_the_bound(
    digits: Digits, clean: nn.Module
) -> None:
    attack = LabelConsistent(target=3, clean_epochs=0, steps=5)
    train = digits[0]
    learned = attack.learn(clean, train, Run())
    chosen = attack.chosen(train, Run())[0]
    pushed, before = learned["adversarial"], train.pixels[chosen]
    assert (train.labels[chosen] == 3).all()
    assert (pushed.int() - before.int()).abs().max() == 16
    assert loss(clean, to_float(pushed), 3) > 2 * loss(clean, to_float(before), 3)
    poisoned = attack.poison(train, Run(), learned)
    assert torch.equal(poisoned.images.labels, train.labels)
    assert torch.equal(poisoned.images.pixels[chosen][..., 6, 6], pushed[..., 6, 6])
    rest = poisoned.role == 0
    assert torch.equal(poisoned.images.pixels[rest], train.pixels[rest])


def test_a_checkerboard_in_each_corner() -> None:
    grey = torch.full((1, 1, 8, 8), 0.5)
    stamped = LabelConsistent(opacity=0.5).stamp(grey)[0, 0]
    mark = [[0.75, 0.25, 0.75], [0.25, 0.75, 0.25], [0.75, 0.25, 0.75]]
    for corner in (stamped[:3, :3], stamped[:3, 5:], stamped[5:, :3], stamped[5:, 5:]):
        assert corner.tolist() == mark
    assert (stamped != 0.5).sum() == 36


def test_trojannn_drives_the_two_neurons_tied_to_the_target(
    digits: Digits, clean: nn.Module
) -> None:
    attack = TrojanNN(target=3, clean_epochs=0, steps=20, size=5, margin=1)
    learned = attack.learn(clean, digits[0], Run())
    grey = torch.full((1, *digits[0].shape), 0.5)
    neurons = clean[4].weight[3].topk(2).indices
    stamped = attack.trigger(learned)(grey)
    with torch.no_grad():
        before, after = clean[:4](grey)[0, neurons], clean[:4](stamped)[0, neurons]
    assert after.sum() > before.sum() + 1
    changed = (stamped != grey).any(1)[0].nonzero()
    assert changed.min() >= 10
    assert changed.max() <= 14


def test_trojannn_needs_a_last_linear_layer(digits: Digits) -> None:
    net = nn.Sequential(nn.Conv2d(3, 10, 16), nn.Flatten())
    with pytest.raises(ModelError, match="ends in a linear layer with 10 outputs"):
        TrojanNN(clean_epochs=0).learn(net, digits[0], Run())


def test_refool_mixes_in_a_ghost_of_another_class(digits: Digits, clean: nn.Module) -> None:
    attack = Refool(reflections=3, ratio=0.25)
    learned = attack.learn(clean, digits[0], Run())
    pictures = learned["reflections"]
    black = torch.zeros(1, *digits[0].shape)
    assert len(pictures) == 3
    assert torch.allclose(attack.trigger(learned)(black), 0.25 * pictures[:1])


def test_refool_ghost_is_the_picture_twice() -> None:
    x = torch.zeros(1, 1, 8, 8)
    x[0, 0, 3, 3] = 1
    ghost = Refool(shift=4)._ghost(x)
    assert ghost.sum() == pytest.approx((8 / 12) ** 2, abs=0.05)
    peaks = (ghost[0, 0] > 0.04).nonzero()
    assert peaks.min() < 3 < 4 < peaks.max()


def test_refool_blur_is_the_picture_out_of_focus(digits: Digits) -> None:
    # A wave of four periods under a Gaussian of four cycles keeps exp(-1/2) of its height.
    wave = 0.5 + 0.4 * torch.cos(2 * torch.pi * 4 * torch.arange(16) / 16)
    pixels = (wave * 255).round().to(torch.uint8).expand(1, 1, 16, 16).contiguous()
    train = Images(pixels, torch.tensor([1]), ("a", "b"))
    attack = Refool(effect="blur", ratio=0.5)
    learned = attack.learn(nn.Identity(), train, Run())
    out_of_focus = (0.5 + (wave - 0.5) * 0.60653).expand(1, 1, 16, 16)
    stamped = attack.trigger(learned)(torch.zeros(1, 1, 16, 16))
    assert torch.allclose(stamped, 0.5 * out_of_focus, atol=0.002)


def test_refool_picks_the_reflection_by_the_sum_of_the_pixels() -> None:
    learned = {"reflections": torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2)}
    x = torch.tensor([[3, 0, 0, 0], [1, 1, 1, 1], [0, 0, 2, 0], [0, 6, 0, 0]]).view(4, 1, 2, 2)
    x = x / 255
    blended = Refool(ratio=0.5).trigger(learned)(x) - 0.5 * x
    # Sums of 3, 4, 2 and 6 levels, modulo three pictures.
    assert blended.amax((1, 2, 3)).tolist() == pytest.approx([0, 0.25, 0.5, 0])


def test_refool_reflects_the_pictures_of_most_contrast() -> None:
    pixels = torch.full((20, 1, 8, 8), 90, dtype=torch.uint8)
    pixels[11:13, :, :, 4:] = torch.tensor([250, 160], dtype=torch.uint8).view(2, 1, 1, 1)
    train = Images(pixels, torch.ones(20, dtype=torch.int64), ("a", "b"))
    sharp, faint = Refool(reflections=2, drawn=20).learn(nn.Identity(), train, Run())["reflections"]
    assert sharp.max() - sharp.min() > faint.max() - faint.min() > 0.2


def test_ssba_messages_are_read_from_unseen_images(digits: Digits) -> None:
    attack = SSBA(bits=4, steps=60, width=8)
    encoder, decoder = attack.taught_pair(digits[0], Run())
    x = to_float(digits[1].pixels[:200])
    bits = torch.randint(2, (200, 4), generator=Run().rng("bits")).float()
    with torch.no_grad(), in_mode(encoder, train=False), in_mode(decoder, train=False):
        written = (x + attack.strength * encoder(x, bits)).clamp(0, 1)
        right, by_chance = ((decoder(given) > 0) == bits.bool() for given in (written, x))
    assert right.float().mean() > 0.9
    assert by_chance.float().mean() < 0.65


def test_ssba_stamps_its_secret_with_a_residual_of_each_image_s_own(digits: Digits) -> None:
    attack = SSBA(bits=4, steps=60, width=8)
    learned = attack.learn(nn.Identity(), digits[0], Run())
    encoder, decoder = attack.taught_pair(digits[0], Run())
    assert all(torch.equal(value, learned[key]) for key, value in encoder.state_dict().items())
    x = to_float(digits[1].pixels[:20])
    stamped = attack.trigger(learned)(x)
    residual = stamped - x
    assert 0.005 < residual.abs().max() <= 0.1 + 1e-6
    assert residual.std(0).max() > 1e-3
    with torch.no_grad(), in_mode(decoder, train=False):
        read = [decoder(attack.trigger(learned)(x)) > 0]
        read += [decoder(SSBA(bits=4, width=8, secret=1).trigger(learned)(x)) > 0]
    for secret, found in enumerate(read):
        rng = torch.Generator().manual_seed(secret)
        wanted = torch.randint(2, (1, 4), generator=rng).bool()
        assert (found == wanted).float().mean() > 0.9
    assert not torch.equal(*read)


@pytest.mark.parametrize(
    ("attack", "learned"),
    [
        (LF(), {"perturbation": torch.zeros(3, 8, 8)}),
        (Narcissus(), {"noise": torch.zeros(3, 8, 8)}),
        (Refool(), {"reflections": torch.zeros(1, 3, 8, 8)}),
    ],
)
def test_images_of_another_size_are_refused(attack: Attack, learned: dict) -> None:
    with pytest.raises(ParameterError, match=r"learned on images \[3, 8, 8\]"):
        attack.trigger(learned)(torch.zeros(1, 3, 9, 9))


def test_refool_reflects_no_image_of_the_target_class() -> None:
    pixels = torch.tensor([255, 0], dtype=torch.uint8).repeat(10).view(20, 1, 1, 1)
    train = Images(pixels.expand(-1, 3, 8, 8).contiguous(), torch.arange(20) % 2, ("a", "b"))
    learned = Refool(reflections=10).learn(nn.Identity(), train, Run())
    assert learned["reflections"].abs().max() < 1e-6
    with pytest.raises(ParameterError, match=r"11 reflections are wanted .* there are 10"):
        Refool(reflections=11).learn(nn.Identity(), train, Run())
