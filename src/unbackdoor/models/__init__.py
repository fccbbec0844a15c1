"""Networks by name, wrapped so that they take images in [0, 1]."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnknownNameError


@dataclass(frozen=True)
class Spec:
    """All that is needed to build a network again: everything but its weights.

    `mean` and `std` are per input channel, for images in [0, 1].
    """

    arch: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


class Normalized(nn.Module):
    """A network that takes images in [0, 1]: normalisation is its first layer."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, spec: Spec) -> None:
        super().__init__()
        self.net = net
        self.spec = spec
        self.register_buffer("mean", torch.tensor(spec.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Images `[n, c, h, w]` in [0, 1] -> logits `[n, classes]`."""
        logits: Tensor = self.net((x - self.mean) / self.std)
        return logits


def create(spec: Spec, rng: torch.Generator | None = None) -> Normalized:
    """The network of `spec` with fresh weights, drawn from `rng` if it is given."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=rng)) if rng else 0)
        return Normalized(_net(spec.arch, len(spec.classes), dict(spec.options)), spec)


def own() -> tuple[str, ...]:
    """The names of the networks that this package brings."""
    return tuple(found.name for found in pkgutil.iter_modules(__path__))


def _net(arch: str, classes: int, options: dict[str, Any]) -> nn.Module:
    if arch in own():
        net = importlib.import_module(f"{__name__}.{arch}").build(classes, **options)
        assert isinstance(net, nn.Module)
        return net
    raise UnknownNameError.of("architecture", arch, own())
