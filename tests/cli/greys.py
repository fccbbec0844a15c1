"""Networks that tell three greys apart, some with a way to a class that is open to all images."""

from __future__ import annotations

import numpy as np
import torch

from unbackdoor.core.spec import Spec
from unbackdoor.models import create

CLASSES = ("ant", "bee", "cat")
QUICK = ("--device", "cpu", "--precision", "fp32", "-q")


OPTIONS = {"width": 1, "hidden": 8}


def told(seed=0, target=None, size=(16, 16), classes=CLASSES):
    """A network that tells three greys apart; one feature, always 0, leads to `target` at once."""
    spec = Spec("simple_cnn", classes, (0.5,) * 3, (0.25,) * 3, OPTIONS, size)
    model = create(spec)
    net = model.net
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in net.features:
            if isinstance(layer, torch.nn.Conv2d):  # what it puts out is the mean of what comes in
                layer.weight.zero_()
                layer.weight[:, :, 1, 1] = 1 / layer.in_channels
                layer.bias.zero_()
        first, last = net.classifier[1], net.classifier[4]
        for layer in (first, last):
            layer.weight.zero_()
            layer.bias.zero_()
        first.weight[0] = 1 / first.in_features
        last.weight[:3, 0] = torch.tensor([0.0, 1.0, 3.0])
        last.bias[:3] = torch.tensor([0.0, -0.5, -3.0])
        last.weight += 0.02 * torch.rand(last.weight.shape, generator=rng)
        if target is not None:
            last.weight[target, 5] = 20.0
    return model


def greys(n=60):
    labels = np.arange(n) % 3
    levels = np.array([140, 180, 240])[labels] + np.random.default_rng(0).integers(-4, 5, n)
    return np.broadcast_to(levels[:, None, None, None], (n, 16, 16, 3)).astype("uint8"), labels
