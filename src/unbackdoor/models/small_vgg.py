"""A VGG of six convolutions with ELU, as releases of backdoored CIFAR-10 and GTSRB models use it.

The defense I-BAU (Zeng et al. 2022, 2110.03735) and attacks of its authors were shown on it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

from ..core.errors import ParameterError
from ._checks import whole

DROPOUT = (0.3, 0.4, 0.4)


class SmallVGG(nn.Module):
    """Three times: two convolutions with norm and ELU, then max pooling and dropout."""

    def __init__(self, classes: int, width: int, in_channels: int, side: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = in_channels
        for stage, dropout in enumerate(DROPOUT):
            outputs = width * 2**stage
            for _ in range(2):
                conv = nn.Conv2d(inputs, outputs, 3, 1, 1)
                layers += [conv, nn.BatchNorm2d(outputs), nn.ELU(inplace=True)]
                inputs = outputs
            layers += [nn.MaxPool2d(2), nn.Dropout(dropout)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs * (side // 8) ** 2, classes)
        self.image_size = side

    def forward(self, x: Tensor) -> Tensor:
        """Images `[n, in_channels, side, side]` -> logits `[n, classes]`."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


def build(classes: int, *, width: int = 32, in_channels: int = 3, side: int = 32) -> nn.Module:
    """The network with fresh weights, for images of `side` pixels, a multiple of 8.

    Raises `ParameterError` for options that are none.
    """
    whole(width=width, in_channels=in_channels, side=side)
    if side % 8:
        raise ParameterError(f"side must be a multiple of 8 pixels, got {side}")
    return SmallVGG(classes, width, in_channels, side)


def infer(state: Mapping[str, Tensor]) -> dict[str, int]:
    """The options that weights of this network were made with."""
    width, in_channels = state["features.0.weight"].shape[:2]
    pixels, rest = divmod(state["classifier.weight"].shape[1], width * 4)
    if rest or math.isqrt(pixels) ** 2 != pixels:
        raise ValueError("the last layer does not take square feature maps")
    return {"width": width, "in_channels": in_channels, "side": 8 * math.isqrt(pixels)}
