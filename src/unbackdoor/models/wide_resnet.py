"""Wide residual networks WRN-d-k for small images (Zagoruyko & Komodakis 2016, 1605.07146)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import ParameterError
from ._checks import whole

RENAMED = (
    (r"^layer(\d)\.(\d+)\.", r"block\1.layer.\2."),
    (r"\.shortcut\.0\.", ".convShortcut."),
    (r"^linear\.", "fc."),
)
"""Other names of the same parts, and ours."""

UNUSED = ("sub_block1.",)
"""A second first stage that some releases hold and no forward pass calls."""

BASE = 16


class Block(nn.Module):
    """Norm, activation, convolution, twice, beside a shortcut.

    The shortcut's convolution takes the activated input, or with `raw` the input itself.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, bias: bool, raw: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1 if bias else stride, 1, bias=bias)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride if bias else 1, 1, bias=bias)
        self.raw = raw
        if stride != 1 or inputs != outputs:
            self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """`[n, inputs, h, w]` -> `[n, outputs, h / stride, w / stride]`."""
        active = F.relu(self.bn1(x))
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        if hasattr(self, "convShortcut"):
            x = self.convShortcut(x if self.raw else active)
        return out + x


class Stage(nn.Module):
    """Blocks one after another, the first with a stride."""

    def __init__(
        self, blocks: int, inputs: int, outputs: int, stride: int, bias: bool, raw: bool
    ) -> None:
        super().__init__()
        made = [
            Block(outputs if i else inputs, outputs, 1 if i else stride, bias, raw)
            for i in range(blocks)
        ]
        self.layer = nn.Sequential(*made)

    def forward(self, x: Tensor) -> Tensor:
        """`[n, inputs, h, w]` -> `[n, outputs, h / stride, w / stride]`."""
        found: Tensor = self.layer(x)
        return found


class WideResNet(nn.Module):
    """Three stages of (depth - 4) / 6 blocks, `16 * widen` channels in the first, then doubled."""

    def __init__(
        self, classes: int, depth: int, widen: int, in_channels: int, bias: bool, raw: bool
    ) -> None:
        super().__init__()
        blocks, widths = (depth - 4) // 6, [BASE * widen * 2**stage for stage in range(3)]
        self.conv1 = nn.Conv2d(in_channels, BASE, 3, 1, 1, bias=bias)
        self.block1 = Stage(blocks, BASE, widths[0], 1, bias, raw)
        self.block2 = Stage(blocks, widths[0], widths[1], 2, bias, raw)
        self.block3 = Stage(blocks, widths[1], widths[2], 2, bias, raw)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.fc = nn.Linear(widths[2], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images `[n, in_channels, h, w]`, sides of at least 4 -> logits `[n, classes]`."""
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        x = F.relu(self.bn1(x)).mean((2, 3))
        logits: Tensor = self.fc(x)
        return logits


def build(
    classes: int,
    *,
    depth: int = 28,
    widen: int = 10,
    in_channels: int = 3,
    bias: bool = False,
    raw_shortcut: bool = False,
) -> nn.Module:
    """The network with fresh weights; `depth` is 6 n + 4.

    `bias` gives the convolutions biases and puts a block's stride into its second one;
    `raw_shortcut` has the shortcuts take what comes in before its norm. Releases that name their
    stages `layer1` to `layer3` are made with both. Raises `ParameterError` for options that are
    none.
    """
    whole(depth=depth, widen=widen, in_channels=in_channels)
    if depth < 10 or depth % 6 != 4:
        raise ParameterError(f"depth must be 6 n + 4: 16, 28, 40...; got {depth}")
    return WideResNet(classes, depth, widen, in_channels, bias, raw_shortcut)


def infer(state: Mapping[str, Tensor]) -> dict[str, int | bool]:
    """The options that weights of this network were made with."""
    blocks = {name.split(".")[2] for name in state if name.startswith("block1.layer.")}
    outputs = state["block1.layer.0.conv2.weight"].shape[0]
    if outputs % BASE:
        raise ValueError(f"{outputs} channels are no multiple of {BASE}")
    biased = "conv1.bias" in state
    return {
        "depth": 6 * len(blocks) + 4,
        "widen": outputs // BASE,
        "in_channels": state["conv1.weight"].shape[1],
        "bias": biased,
        "raw_shortcut": biased,
    }
