"""A plain CNN of five convolutions with norms and two linear layers, for small images."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ._checks import whole


class SimpleCNN(nn.Module):
    """Convolutions of w, w, 2 w, 2 w and 4 w channels, a global average, two linear layers."""

    def __init__(self, classes: int, width: int, in_channels: int, hidden: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = in_channels
        for factor, pooled in ((1, False), (1, True), (2, False), (2, True), (4, False)):
            outputs = width * factor
            conv = nn.Conv2d(inputs, outputs, 3, 1, 1)
            layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
            layers += [nn.MaxPool2d(2)] if pooled else []
            inputs = outputs
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(inputs, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(0.2),
            nn.Linear(hidden, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images `[n, in_channels, h, w]`, sides of at least 4 -> logits `[n, classes]`."""
        logits: Tensor = self.classifier(self.features(x))
        return logits


def build(classes: int, *, width: int = 64, in_channels: int = 3, hidden: int = 128) -> nn.Module:
    """The network with fresh weights; raises `ParameterError` for options that are none."""
    whole(width=width, in_channels=in_channels, hidden=hidden)
    return SimpleCNN(classes, width, in_channels, hidden)


def infer(state: Mapping[str, Tensor]) -> dict[str, int]:
    """The options that weights of this network were made with."""
    width, in_channels = state["features.0.weight"].shape[:2]
    hidden = state["classifier.1.weight"].shape[0]
    return {"width": width, "in_channels": in_channels, "hidden": hidden}
