"""PreActResNet18 for small images: the network that the field's tables are made with."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from ._checks import whole


class Block(nn.Module):
    """Norm, activation, convolution, twice, beside a shortcut (He et al. 2016, 1603.05027)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """`[n, inputs, h, w]` -> `[n, outputs, h / stride, w / stride]`."""
        active = F.relu(self.bn1(x))
        shortcut = self.shortcut(active) if hasattr(self, "shortcut") else x
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out + shortcut


class PreActResNet18(nn.Module):
    """Four stages of two blocks; `width` channels in the first, doubled from stage to stage."""

    def __init__(self, classes: int, width: int = 64, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
        inputs = width
        for stage in range(4):
            outputs = width * 2**stage
            blocks = Block(inputs, outputs, 1 if stage == 0 else 2), Block(outputs, outputs, 1)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            inputs = outputs
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images `[n, in_channels, h, w]`, sides of at least 8 -> logits `[n, classes]`."""
        x = self.conv1(x)
        for stage in range(4):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def build(classes: int, *, width: int = 64, in_channels: int = 3) -> nn.Module:
    """The network with fresh weights; raises `ParameterError` for a width that is none."""
    whole(width=width, in_channels=in_channels)
    return PreActResNet18(classes, width, in_channels)


def infer(state: Mapping[str, Tensor]) -> dict[str, int]:
    """The options that weights of this network were made with."""
    width, in_channels = state["conv1.weight"].shape[:2]
    return {"width": width, "in_channels": in_channels}
