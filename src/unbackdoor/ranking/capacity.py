"""Unused capacity: how much more a channel could answer than clean images make it answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..core.images import Images
from ..core.modules import exact, in_mode
from ..core.run import Run
from ..network.channels import channels_first
from ..network.layers import Layer


class Spread:
    """The standard deviation of each channel, over all images and positions that were added."""

    def __init__(self) -> None:
        self.count, self.sums = 0, torch.zeros(2, 0, dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        """Adds `x` `[n, channels, ...]`."""
        values = exact(x.detach().transpose(0, 1).flatten(1))
        sums = torch.stack([values.sum(1), values.square().sum(1)])
        self.sums = self.sums.to(sums) + sums if self.count else sums
        self.count += values.shape[1]

    def std(self) -> Tensor:
        """float64 `[channels]`."""
        mean, square = self.sums / self.count
        variance: Tensor = (square - mean.square()).clamp_min(0)
        return variance.sqrt()


def unused_capacity(
    model: nn.Module, layers: Sequence[Layer], images: Images, run: Run
) -> dict[str, Tensor]:
    """Unused capacity of every channel of the `layers` on clean `images`: float32, by layer name.

    Of channel c it is sqrt(sum_k |w_ck|^2 std_k^2) / std_c: w_ck is the kernel from input channel
    k to c, std the standard deviation over images and positions. It is 1 where the inputs are
    independent, and large where they cancel on clean images: the channel could answer something
    else. Infinite for a channel that never moves though it could, 0 for one without weights.

    Akin to MNP's weights that outweigh their saliency (Li et al. 2024, arXiv 2405.17750).
    """
    spreads = {layer.name: (Spread(), Spread()) for layer in layers}
    with in_mode(model, train=False), torch.no_grad(), _measured(model, spreads):
        for x, _ in images.batches(100):
            with run.autocast():
                model(x.to(run.device))
    return {
        name: _ratio(model.get_submodule(name), inputs.std(), outputs.std())
        for name, (inputs, outputs) in spreads.items()
    }


@contextmanager
def _measured(model: nn.Module, spreads: Mapping[str, tuple[Spread, Spread]]) -> Iterator[None]:
    def add(name: str, module: nn.Module, args: tuple[Any, ...], y: Tensor) -> None:
        for spread, x in zip(spreads[name], (args[0], y), strict=True):
            spread.add(channels_first(module, x))

    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda module, args, y, name=name: add(name, module, args, y)
        )
        for name in spreads
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _ratio(module: nn.Module, inputs: Tensor, outputs: Tensor) -> Tensor:
    """What the channels could answer over what they do answer: float32 `[channels]`."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    kernels = exact(weight.detach())
    strength = kernels.square().flatten(2).sum(2) if kernels.ndim > 2 else kernels.square()
    groups = len(inputs) // strength.shape[1]
    reach = inputs.square().view(groups, -1).repeat_interleave(len(strength) // groups, 0)
    potential = (strength * reach).sum(1).sqrt()
    return torch.where(potential > 0, potential / outputs, 0).float()
