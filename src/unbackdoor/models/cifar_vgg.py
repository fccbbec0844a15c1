"""VGG with norms and one linear layer, for small images (after Simonyan & Zisserman, 1409.1556)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from ..core.errors import ParameterError
from ._checks import whole

CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2,) * 5, 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""How many there are in each stage, by the number of layers in the paper's network."""


class CifarVGG(nn.Module):
    """Five stages of 3x3 convolutions with norms, each ending in 2x2 max pooling."""

    def __init__(self, classes: int, depth: int, width: int, in_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = in_channels
        for stage, count in enumerate(CONVOLUTIONS[depth]):
            outputs = width * min(2**stage, 8)
            for _ in range(count):
                conv = nn.Conv2d(inputs, outputs, 3, 1, 1)
                layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, classes)
        self.image_size = 32

    def forward(self, x: Tensor) -> Tensor:
        """Images `[n, in_channels, 32, 32]` -> logits `[n, classes]`."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


def build(classes: int, *, depth: int = 16, width: int = 64, in_channels: int = 3) -> nn.Module:
    """The network with fresh weights; raises `ParameterError` for options that are none."""
    whole(width=width, in_channels=in_channels)
    if depth not in CONVOLUTIONS:
        raise ParameterError(f"depth must be one of {sorted(CONVOLUTIONS)}, got {depth!r}")
    return CifarVGG(classes, depth, width, in_channels)


def infer(state: Mapping[str, Tensor]) -> dict[str, int]:
    """The options that weights of this network were made with."""
    width, in_channels = state["features.0.weight"].shape[:2]
    kernels = [
        name
        for name in state
        if re.fullmatch(r"features\.\d+\.weight", name) and state[name].ndim == 4
    ]
    # The paper counts its three linear layers, too.
    return {"depth": len(kernels) + 3, "width": width, "in_channels": in_channels}
