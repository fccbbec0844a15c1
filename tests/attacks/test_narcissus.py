"""Narcissus: its noise, its surrogate and the public images that it learns from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unbackdoor.attacks.base.public import drawn, from_file
from unbackdoor.attacks.narcissus import Narcissus, _margin
from unbackdoor.core.errors import ImagesError
from unbackdoor.core.images import Images, to_float
from unbackdoor.core.measure import accuracy
from unbackdoor.core.run import Run
from unbackdoor.training.fit import fit

from .conftest import Digits, loss


def test_narcissus_is_bounded_in_training_and_magnified_at_test(
    digits: Digits, clean: nn.Module
) -> None:
    attack = Narcissus(target=3, surrogate_epochs=3, warmup_epochs=1, rounds=60, batch=64, lr=0.02)
    learned = attack.learn(clean, digits[0], Run())
    x = torch.full((1, *digits[0].shape), 0.5)
    implanted = attack.implant(x, learned, Run().rng("")) - x
    assert 0.9 * 16 / 255 < implanted.abs().max() <= 16 / 255 + 1e-6
    assert torch.allclose(attack.trigger(learned)(x) - x, 3 * implanted, atol=1e-6)


def linear(monkeypatch: pytest.MonkeyPatch) -> tuple[Narcissus, nn.Sequential]:
    """The attack, and the linear network that it takes for its surrogate."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(768, 10))
    nn.init.normal_(net[1].weight, std=0.05, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(Narcissus, "surrogate", lambda *_: net)
    return Narcissus(target=3, warmup_epochs=0, rounds=30, batch=32), net


def test_narcissus_noise_makes_target_images_more_so_to_its_surrogate(
    digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack, net = linear(monkeypatch)
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


def test_narcissus_learns_on_a_surrogate_so_sure_that_cross_entropy_is_flat(
    digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack, net = linear(monkeypatch)
    net[1].bias.data[3] += 1000
    learned = attack.learn(net, digits[0], Run())
    x = to_float(digits[0].pixels[digits[0].labels == 3])
    implanted, labels = attack.implant(x, learned, Run().rng("")), torch.full((len(x),), 3)
    assert loss(net, x, 3) == 0
    # The other classes fall behind further still.
    with torch.no_grad():
        assert (_margin(net(implanted), labels) - _margin(net(x), labels)).mean() < -1


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


def test_what_narcissus_learns_from_is_the_target_class_and_public_images(
    digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, shown, warmed = digits[0], [], []

    def surrogate(attack: Narcissus, model: nn.Module, seen: Images, *_: object) -> nn.Module:
        shown.append(seen)
        return model

    monkeypatch.setattr(Narcissus, "surrogate", surrogate)
    monkeypatch.setattr(
        "unbackdoor.attacks.narcissus.fit",
        lambda net, images, run, **told: warmed.append((images, told["epochs"])),
    )
    net = nn.Sequential(nn.Flatten(), nn.Linear(768, 10))
    Narcissus(target=3, rounds=1).learn(net, train, Run())
    (seen,), ((inside, epochs),) = shown, warmed
    strange = {image.numpy().tobytes() for image in train.pixels[train.labels != 3]}
    assert len(seen) > len(inside) == (train.labels == 3).sum()
    for images in (seen, inside):
        assert not any(image.numpy().tobytes() in strange for image in images.pixels)
    assert torch.equal(inside.pixels, train.pixels[train.labels == 3]) and epochs == 5


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
