"""All-CNN-C: nine convolutions, dropout, no norm and no pooling but the last."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ._checks import whole


class AllCNN(nn.Module):
    """Springenberg et al. 2015, arXiv 1412.6806; `width` channels at first, twice as many after."""

    def __init__(self, classes: int, width: int = 96, in_channels: int = 3) -> None:
        super().__init__()
        wide = 2 * width
        shapes = [
            *((in_channels, width, 3, 1), (width, width, 3, 1), (width, width, 3, 2)),
            *((width, wide, 3, 1), (wide, wide, 3, 1), (wide, wide, 3, 2)),
            *((wide, wide, 3, 1), (wide, wide, 1, 1), (wide, classes, 1, 1)),
        ]
        parts: list[nn.Module] = [nn.Dropout(0.2)]
        for inputs, outputs, side, stride in shapes:
            convolution = nn.Conv2d(inputs, outputs, side, stride, side // 2)
            # Without norms nothing else keeps signals from fading through nine layers.
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
            parts += [convolution, nn.ReLU()]
            if stride == 2:
                parts.append(nn.Dropout(0.5))
        self.features = nn.Sequential(*parts[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """Images `[n, in_channels, h, w]`, sides of at least 4 -> logits `[n, classes]`."""
        logits: Tensor = self.features(x).mean((2, 3))
        return logits


def build(classes: int, *, width: int = 96, in_channels: int = 3) -> nn.Module:
    """The network with fresh weights; raises `ParameterError` for a width that is none."""
    whole(width=width, in_channels=in_channels)
    return AllCNN(classes, width, in_channels)


def infer(state: Mapping[str, Tensor]) -> dict[str, int]:
    """The options that weights of this network were made with."""
    width, in_channels = state["features.1.weight"].shape[:2]
    return {"width": width, "in_channels": in_channels}
