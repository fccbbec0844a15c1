"""Triggers that are learned: their bounds, and what they are learned for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unbackdoor.attacks.base.attack import Attack
from unbackdoor.attacks.base.patterns import low_pass
from unbackdoor.attacks.base.public import drawn, from_file
from unbackdoor.attacks.label_consistent import LabelConsistent
from unbackdoor.attacks.lf import LF
from unbackdoor.attacks.narcissus import Narcissus, _margin
from unbackdoor.attacks.refool import Refool
from unbackdoor.attacks.ssba import SSBA
from unbackdoor.attacks.trojannn import TrojanNN
from unbackdoor.core.errors import ImagesError, ModelError, ParameterError
from unbackdoor.core.images import Images, to_float
from unbackdoor.core.measure import accuracy, score
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


def energy_above(pattern: torch.Tensor, cycles: float) -> float:
    """The share of the energy of a pattern, its mean left out, above so many cycles an image."""
    power = torch.fft.fft2(pattern).abs().square().sum(0)
    power[0, 0] = 0
    v, u = (torch.fft.fftfreq(side, 1 / side) for side in power.shape)
    far = (v.view(-1, 1).square() + u.square()).sqrt() > cycles
    return float(power[far].sum() / power.sum())


def test_energy_above_knows_a_wave_by_its_cycles() -> None:
    wave = torch.cos(2 * torch.pi * 5 * torch.arange(16) / 16).expand(3, 16, 16)
    assert energy_above(wave + 1, 4) == pytest.approx(1)
    assert energy_above(wave + 1, 6) == pytest.approx(0, abs=1e-6)


def test_lf_is_low_frequency_one_sided_and_points_to_the_target(
    digits: Digits, clean: nn.Module
) -> None:
    attack = LF(target=3, clean_epochs=0)
    learned = attack.learn(clean, digits[0], Run())
    trigger = learned["perturbation"]
    # The published triggers hold 0.8 % and less above four cycles, and run from 0 to 0.2.
    assert energy_above(trigger, 4) < 0.01
    assert energy_above(trigger, 2) < 0.1
    assert trigger.min() == 0
    assert trigger.max() == pytest.approx(0.2)
    x = to_float(digits[1].pixels)
    start = LF(target=3, clean_epochs=0, steps=1).learn(clean, digits[0], Run())
    pushed = loss(clean, attack.trigger(learned)(x), 3)
    assert pushed < 0.9 * loss(clean, attack.trigger(start)(x), 3)


def test_lf_scales_its_trigger_to_the_strength_asked_for(digits: Digits, clean: nn.Module) -> None:
    learned = LF(clean_epochs=0, steps=2, strength=0.05).learn(clean, digits[0], Run())
    assert learned["perturbation"].max() == pytest.approx(0.05)


def test_a_clean_model_does_not_obey_the_lf_trigger(digits: Digits, clean: nn.Module) -> None:
    attack = LF(target=3, clean_epochs=5, batch=32, lr=0.05, flip=False)
    learned = attack.learn(clean, digits[0], Run())
    stamped = attack.triggered(digits[1], learned)
    assert score(clean, Run(), digits[1], stamped).asr.value < 0.3


def test_low_pass_keeps_the_mean_and_damps_a_wave_by_the_gaussian() -> None:
    wave = torch.cos(2 * torch.pi * 4 * torch.arange(16) / 16).expand(1, 16, 16)
    assert torch.allclose(low_pass(wave + 1, 4.0), 1 + wave * 0.60653, atol=1e-4)


def test_narcissus_is_bounded_in_training_and_magnified_at_test(
    digits: Digits, clean: nn.Module
) -> None:
    attack = Narcissus(target=3, surrogate_epochs=3, warmup_epochs=1, rounds=60, batch=64, lr=0.02)
    learned = attack.learn(clean, digits[0], Run())
    x = torch.full((1, *digits[0].shape), 0.5)
    implanted = attack.implant(x, learned, Run().rng("")) - x
    assert 0.9 * 16 / 255 < implanted.abs().max() <= 16 / 255 + 1e-6
    assert torch.allclose(attack.trigger(learned)(x) - x, 3 * implanted, atol=1e-6)


def test_narcissus_noise_makes_target_images_more_so_to_its_surrogate(
    digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = Narcissus(target=3, warmup_epochs=0, rounds=30, batch=32)
    net = nn.Sequential(nn.Flatten(), nn.Linear(768, 10))
    nn.init.normal_(net[1].weight, std=0.05, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(Narcissus, "surrogate", lambda *_: net)
    learned = attack.learn(net, digits[0], Run())
    x = to_float(digits[0].pixels[digits[0].labels == 3])
    assert loss(net, attack.implant(x, learned, Run().rng("")), 3) < 0.8 * loss(net, x, 3)


def test_the_noise_has_a_slope_to_follow_where_cross_entropy_is_flat() -> None:
    logits = torch.tensor([[60.0, 0.0, 0.0], [1.0, 2.0, 3.0]], requires_grad=True)
    labels = torch.tensor([0, 1])
    lead = _margin(logits, labels)
    lead.sum().backward()
    assert logits.grad[0].tolist() == pytest.approx([-1, 0.5, 0.5])
    entropy = F.cross_entropy(logits, labels, reduction="none")
    assert entropy.tolist() == pytest.approx(lead.exp().log1p().tolist())


def test_the_surrogate_of_narcissus_never_sees_the_victim_s_other_classes(digits: Digits) -> None:
    train = digits[0]
    attack = Narcissus(target=3)
    seen = attack.seen(train[train.labels == 3], Run())
    known = {image.numpy().tobytes() for image in train.pixels[train.labels != 3]}
    assert not any(image.numpy().tobytes() in known for image in seen.pixels)
    own = seen.labels == 3
    assert torch.equal(seen.pixels[own], train.pixels[train.labels == 3])
    # Nine classes of textures take the places of the other nine, as many of each.
    assert (seen.labels[~own].bincount(minlength=10) == own.sum()).sum() == 9


def test_narcissus_takes_public_images_from_a_file(digits: Digits, tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (24, 16, 16, 3), generator=Run().rng("x")).to(torch.uint8)
    labels = torch.arange(24) % 12 + 100
    np.savez(tmp_path / "public.npz", images=pixels.numpy(), labels=labels.numpy())
    inside = digits[0][digits[0].labels == 3]
    seen = Narcissus(target=3, public=tmp_path / "public.npz").seen(inside, Run())
    assert torch.equal(seen.pixels[len(inside) :], pixels.permute(0, 3, 1, 2))
    # Twelve classes in nine places: the last three share them with the first.
    assert seen.labels[len(inside) :][:12].tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    with pytest.raises(ImagesError, match=r"must hold images uint8 \[3, 8, 8\]"):
        from_file(tmp_path / "public.npz", (3, 8, 8))
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    with pytest.raises(ImagesError, match=r"bad\.npz is no \.npz file"):
        from_file(tmp_path / "bad.npz", (3, 16, 16))


def test_drawn_public_classes_can_be_told_apart_and_not_by_single_pixels() -> None:
    train, test = (drawn(n, 4, (3, 16, 16), Run().rng("x"))[:n] for n in (400, 400))
    assert torch.equal(train.pixels, test.pixels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 16, 5, 2), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU())
        net.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)])
    fit(net, train[:300], Run(), epochs=20, lr=0.05, batch=32, crop=False, flip=False)
    assert accuracy(net, test[300:], Run()).value > 0.5  # chance is 0.25


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


def test_trojannn_drives_the_best_connected_neurons_to_a_value(
    digits: Digits, clean: nn.Module
) -> None:
    attack = TrojanNN(target=3, clean_epochs=0, steps=40, size=5, margin=1)
    learned = attack.learn(clean, digits[0], Run())
    grey = torch.full((1, *digits[0].shape), 0.5)
    neurons = clean[4].weight.abs().sum(0).topk(2).indices
    stamped = attack.trigger(learned)(grey)
    with torch.no_grad():
        before, after = clean[:4](grey)[0, neurons], clean[:4](stamped)[0, neurons]
    assert after.sum() > before.sum() + 1
    changed = (stamped != grey).any(1)[0].nonzero()
    assert changed.min() >= 10
    assert changed.max() <= 14
    # A value that can be reached is not overshot.
    near = float(before.mean())
    low = TrojanNN(clean_epochs=0, steps=200, size=5, value=near + 0.2)
    stamped = low.trigger(low.learn(clean, digits[0], Run()))(grey)
    with torch.no_grad():
        reached = clean[:4](stamped)[0, neurons]
    assert (reached - near - 0.2).abs().mean() < (before - near - 0.2).abs().mean()
    assert reached.mean() < after.mean() - 0.3


def test_trojannn_needs_a_last_linear_layer(digits: Digits) -> None:
    net = nn.Sequential(nn.Conv2d(3, 10, 16), nn.Flatten())
    with pytest.raises(ModelError, match="ends in a linear layer with 10 outputs"):
        TrojanNN(clean_epochs=0).learn(net, digits[0], Run())


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


def test_ssba_writes_more_faintly_where_the_image_weighs_more(digits: Digits) -> None:
    x, bits = to_float(digits[1].pixels[:50]), torch.ones(1, 4)
    sizes = []
    for weight in (0.0, 100.0):
        encoder, _ = SSBA(bits=4, steps=40, width=8, image_weight=weight).taught_pair(
            digits[0], Run()
        )
        with torch.no_grad(), in_mode(encoder, train=False):
            sizes.append(float(encoder(x, bits).square().mean()))
    assert sizes[1] < 0.5 * sizes[0]
