"""Means and variances of the feature maps of any network over many images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..core.images import Images
from ..core.modules import exact, in_mode
from ..core.run import Run
from .channels import feature_maps
from .layers import Layer


class Moments:
    """The mean and the variance of each channel, over all values that were added."""

    def __init__(self) -> None:
        self.count = 0
        self.sums = self.squares = torch.zeros((), dtype=torch.float64)

    def add(self, maps: Tensor) -> None:
        """Counts the values of `maps` `[n, channels, ...]`."""
        flat = exact(maps.detach().movedim(1, 0).flatten(1))
        self.count += flat.shape[1]
        self.sums = self.sums.to(flat.device) + flat.sum(1)
        self.squares = self.squares.to(flat.device) + flat.square().sum(1)

    @property
    def mean(self) -> Tensor:
        """Float32 `[channels]`."""
        return (self.sums / self.count).float()

    @property
    def var(self) -> Tensor:
        """Float32 `[channels]`, over the number of values."""
        return (self.squares / self.count - (self.sums / self.count).square()).clamp_min(0).float()


@torch.no_grad()
def moments(
    model: nn.Module,
    spots: Sequence[Layer],
    clean: Images,
    run: Run,
    of: Callable[[Tensor], Tensor] = lambda maps: maps,
) -> dict[str, Moments]:
    """The moments of what the `spots` put out on the `clean` images, in eval mode, by name."""
    found = {spot.name: Moments() for spot in spots}
    with in_mode(model, train=False), feature_maps(model, spots) as maps:
        for x, _ in clean.batches(256):
            model(x.to(run.device))
            for name, y in maps.items():
                found[name].add(of(y.float()))
    return found
