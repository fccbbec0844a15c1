"""Triggers that are learned: their bounds, and what they are learned for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unbackdoor.attacks.base.attack import Attack
from unbackdoor.attacks.base.patterns import low_pass
from unbackdoor.attacks.label_consistent import LabelConsistent
from unbackdoor.attacks.lf import LF
from unbackdoor.attacks.narcissus import Narcissus
from unbackdoor.attacks.refool import Refool
from unbackdoor.attacks.ssba import SSBA
from unbackdoor.attacks.trojannn import TrojanNN
from unbackdoor.core.errors import ModelError, ParameterError
from unbackdoor.core.images import to_float
from unbackdoor.core.measure import score
from unbackdoor.core.modules import in_mode
from unbackdoor.core.run import Run

from .conftest import Digits, loss


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
