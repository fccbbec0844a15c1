"""MobileNetV2 for small images: torchvision's, shrinking them by 8 in place of 32."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torchvision.models import MobileNetV2

from ..core.errors import ParameterError
from ._checks import whole

STAGES = (
    # Expansion, channels, blocks, stride, as in the paper but for the stride of the second.
    *([1, 16, 1, 1], [6, 24, 2, 1], [6, 32, 3, 2], [6, 64, 4, 2]),
    *([6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]),
)


def build(classes: int, *, width: float = 1.0, in_channels: int = 3) -> nn.Module:
    """The network of Sandler et al. 2018 (arXiv 1801.04381) with fresh weights.

    `width` multiplies all channels. Images are `[n, in_channels, h, w]` of any size; the stem and
    the second stage keep it, as usual for CIFAR. Raises `ParameterError` for a width that is none.
    """
    if not isinstance(width, int | float) or not 0.05 <= width <= 8:
        raise ParameterError(f"width must be a factor from 0.05 to 8, got {width!r}")
    whole(in_channels=in_channels)
    stages = [list(stage) for stage in STAGES]
    net = MobileNetV2(classes, float(width), inverted_residual_setting=stages)
    place = net.features[0]
    assert isinstance(place, nn.Sequential) and isinstance(place[0], nn.Conv2d)
    place[0] = nn.Conv2d(in_channels, place[0].out_channels, 3, 1, 1, bias=False)
    nn.init.kaiming_normal_(place[0].weight, mode="fan_out")
    found: nn.Module = net
    return found


def infer(state: Mapping[str, Tensor]) -> dict[str, float | int]:
    """The options that weights of this network were made with."""
    in_channels = state["features.0.0.weight"].shape[1]
    widest = state["features.17.conv.2.weight"].shape[0]  # 320 times the width, rounded to eights
    return {"width": round(widest / 320, 3), "in_channels": in_channels}
