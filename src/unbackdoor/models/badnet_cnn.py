"""The small CNN of BadNets (Gu et al. 2017, 1708.06733): two convolutions, two linear layers.

Releases of it end in a softmax. It has no weights, so it is left out here: the classes are the
same, and what comes out are logits, as training and repairing need them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

from ..core.errors import ParameterError
from ._checks import whole

NOTE = "a softmax at its end, if it has one, is left out: the outputs are logits, the classes same"


class BadNetCNN(nn.Module):
    """Convolutions 5x5 without padding, each with ReLU and 2x2 average pooling."""

    def __init__(self, classes: int, width: int, hidden: int, in_channels: int, side: int) -> None:
        super().__init__()
        self.conv1 = _stage(in_channels, width)
        self.conv2 = _stage(width, 2 * width)
        self.fc1 = nn.Sequential(
            nn.Linear(2 * width * ((side - 12) // 4) ** 2, hidden), nn.ReLU(inplace=True)
        )
        self.fc2 = nn.Sequential(nn.Linear(hidden, classes))
        self.image_size = side

    def forward(self, x: Tensor) -> Tensor:
        """Images `[n, in_channels, side, side]` -> logits `[n, classes]`."""
        logits: Tensor = self.fc2(self.fc1(self.conv2(self.conv1(x)).flatten(1)))
        return logits


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 5), nn.ReLU(inplace=True), nn.AvgPool2d(2))


def build(
    classes: int, *, width: int = 16, hidden: int = 512, in_channels: int = 3, side: int = 32
) -> nn.Module:
    """The network with fresh weights, for images of `side` pixels, a multiple of 4 from 16.

    Raises `ParameterError` for options that are none.
    """
    whole(width=width, hidden=hidden, in_channels=in_channels, side=side)
    if side < 16 or side % 4:
        raise ParameterError(f"side must be a multiple of 4 pixels, from 16; got {side}")
    return BadNetCNN(classes, width, hidden, in_channels, side)


def infer(state: Mapping[str, Tensor]) -> dict[str, int]:
    """The options that weights of this network were made with."""
    width, in_channels = state["conv1.0.weight"].shape[:2]
    hidden, inputs = state["fc1.0.weight"].shape
    pixels, rest = divmod(inputs, 2 * width)
    if rest or math.isqrt(pixels) ** 2 != pixels:
        raise ValueError("the first linear layer does not take square feature maps")
    side = 4 * math.isqrt(pixels) + 12
    return {"width": width, "hidden": hidden, "in_channels": in_channels, "side": side}
