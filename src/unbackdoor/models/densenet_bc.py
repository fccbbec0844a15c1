"""DenseNet-BC for small images: torchvision's blocks behind a stem that keeps the size."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn
from torchvision.models import DenseNet

from ..core.errors import ParameterError
from ._checks import whole


def build(classes: int, *, depth: int = 40, growth: int = 12, in_channels: int = 3) -> nn.Module:
    """The network of Huang et al. 2017 (arXiv 1608.06993) for CIFAR, with fresh weights.

    Three dense blocks of (depth - 4) / 6 layers of `growth` channels. Images are
    `[n, in_channels, h, w]`, sides of at least 4. Raises `ParameterError` for a depth that is none.
    """
    whole(growth=growth, in_channels=in_channels)
    if not isinstance(depth, int) or depth < 10 or (depth - 4) % 6:
        raise ParameterError(f"depth must be 4 more than a multiple of 6, got {depth!r}")
    layers = (depth - 4) // 6
    net = DenseNet(growth, (layers, layers, layers), 2 * growth, num_classes=classes)
    stem = nn.Conv2d(in_channels, 2 * growth, 3, 1, 1, bias=False)
    nn.init.kaiming_normal_(stem.weight)
    # What follows a stem of stride 2 in the larger network is left out.
    parts = {"conv0": stem, "norm0": nn.Identity(), "relu0": nn.Identity(), "pool0": nn.Identity()}
    for name, part in parts.items():
        setattr(net.features, name, part)
    found: nn.Module = net
    return found


def infer(state: Mapping[str, Tensor]) -> dict[str, int]:
    """The options that weights of this network were made with."""
    wide, in_channels = state["features.conv0.weight"].shape[:2]
    first = re.compile(r"features\.denseblock1\.denselayer\d+\.conv2\.weight")
    layers = sum(bool(first.fullmatch(name)) for name in state)
    return {"depth": 6 * layers + 4, "growth": wide // 2, "in_channels": in_channels}
