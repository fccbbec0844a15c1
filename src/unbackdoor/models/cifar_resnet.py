"""The ResNets of CIFAR with 20, 32, 44, 56, 110... layers (He et al. 2016, 1512.03385, 4.2)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import ParameterError
from ._checks import whole

RENAMED = ((r"^fc\.", "linear."), (r"\.downsample\.", ".shortcut."))
"""Other names of the same parts, and ours."""


class Block(nn.Module):
    """Convolution and norm, twice, beside a shortcut; without `projection` that has no weights."""

    def __init__(self, inputs: int, outputs: int, stride: int, projection: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, outputs - inputs
        if projection and (stride != 1 or self.more):
            self.shortcut: nn.Module | None = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        else:
            self.shortcut = None

    def forward(self, x: Tensor) -> Tensor:
        """`[n, inputs, h, w]` -> `[n, outputs, h / stride, w / stride]`."""
        out: Tensor = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self._beside(x))

    def _beside(self, x: Tensor) -> Tensor:
        if self.shortcut is not None:
            found: Tensor = self.shortcut(x)
            return found
        # Option A of the paper: every second pixel, and zeros for the channels that are new.
        x = x[:, :, :: self.stride, :: self.stride]
        before = self.more // 2
        return F.pad(x, (0, 0, 0, 0, before, self.more - before)) if self.more else x


class CifarResNet(nn.Module):
    """Three stages of (depth - 2) / 6 blocks; `width` channels in the first, then doubled."""

    def __init__(
        self, classes: int, depth: int, width: int, in_channels: int, projection: bool
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for stage in range(3):
            outputs, blocks = width * 2**stage, []
            for index in range((depth - 2) // 6):
                stride = 2 if stage and not index else 1
                blocks.append(Block(inputs, outputs, stride, projection))
                inputs = outputs
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images `[n, in_channels, h, w]`, sides of at least 4 -> logits `[n, classes]`."""
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in range(3):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def build(
    classes: int,
    *,
    depth: int = 20,
    width: int = 16,
    in_channels: int = 3,
    projection: bool = False,
) -> nn.Module:
    """The network with fresh weights; `depth` is 6 n + 2, `projection` puts 1x1 shortcuts in.

    Raises `ParameterError` for options that are none.
    """
    whole(depth=depth, width=width, in_channels=in_channels)
    if depth < 8 or depth % 6 != 2:
        raise ParameterError(f"depth must be 6 n + 2: 20, 32, 44, 56, 110...; got {depth}")
    return CifarResNet(classes, depth, width, in_channels, projection)


def infer(state: Mapping[str, Tensor]) -> dict[str, int | bool]:
    """The options that weights of this network were made with."""
    width, in_channels = state["conv1.weight"].shape[:2]
    blocks = {name.split(".")[1] for name in state if name.startswith("layer1.")}
    return {
        "depth": 6 * len(blocks) + 2,
        "width": width,
        "in_channels": in_channels,
        "projection": "layer2.0.shortcut.0.weight" in state,
    }
