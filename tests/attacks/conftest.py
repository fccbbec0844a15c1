"""Digits in grey on three channels, and a net that learns them in a second."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from unbackdoor.core.images import Images
from unbackdoor.core.run import Run
from unbackdoor.training.fit import fit

BRIEF: dict[str, Any] = {"batch": 32, "flip": False, "lr": 0.02}
"""How victims are trained here."""

Digits = tuple[Images, Images]
"""(training, test) images."""


@pytest.fixture(scope="session")
def digits() -> Digits:
    """(training, test) images of 16 x 16, between a quarter and three quarters of white."""
    found = load_digits()
    grey = torch.from_numpy(found.images).float() / 16
    wide = grey.repeat_interleave(2, 1).repeat_interleave(2, 2)
    pixels = ((0.25 + 0.5 * wide) * 255).round().to(torch.uint8)
    pixels = pixels[:, None].expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(found.target).long()
    images = Images(pixels, labels, tuple("0123456789"))
    return images[slice(0, 1297)], images[slice(1297, None)]


def small_net() -> nn.Module:
    """A small net that ends in a linear layer, always with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(4),
            nn.Flatten(),
            nn.Linear(512, 10),
        )


@pytest.fixture
def net() -> nn.Module:
    """The small net, untrained."""
    return small_net()


@pytest.fixture(scope="session")
def twin(digits: Digits) -> nn.Module:
    """What a victim of twelve epochs would be without an attack."""
    net = small_net()
    fit(net, digits[0], Run(), epochs=12, **BRIEF)
    return net


@pytest.fixture(scope="session")
def clean(digits: Digits) -> nn.Module:
    """A small net that never saw a trigger."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(192, 32), nn.ReLU())
        net.append(nn.Linear(32, 10))
    fit(net, digits[0], Run(), epochs=5, lr=0.05, batch=32, crop=False, flip=False)
    return net


def loss(model: nn.Module, x: torch.Tensor, label: int) -> float:
    """Cross-entropy of images for one class."""
    with torch.no_grad():
        return float(F.cross_entropy(model(x), torch.full((len(x),), label)))
