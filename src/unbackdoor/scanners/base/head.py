"""The last layer of a network, and the features that it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...core.errors import ModelError
from ...core.images import Images
from ...core.run import Run

Features = Callable[[Tensor], tuple[Tensor, nn.Linear]]
"""A function of images: (what the last linear layer takes `[n, features]`, that layer)."""


@dataclass(frozen=True, eq=False)
class Head:
    """A last layer `logits = weight @ features + bias`, and the features of some images.

    `weight` is float32 `[classes, features]`, `bias` `[classes]`, `features` `[n, features]`.
    """

    weight: Tensor
    bias: Tensor
    features: Tensor


def head_of(model: nn.Module, clean: Images, run: Run, who: str) -> Head:
    """The last layer of `model`, and the features of `clean`, on the CPU.

    Raises `ModelError`, in the name of `who`, where the outputs are not those of a linear layer.
    """
    features = []
    with last_inputs(model, who) as both, torch.no_grad():
        for x, _ in clean.batches(256):
            found, layer = both(x.to(run.device))
            features.append(found.float().cpu())
    weight = layer.weight.detach().float().cpu()
    bias = torch.zeros(len(weight)) if layer.bias is None else layer.bias.detach().float().cpu()
    return Head(weight, bias, torch.cat(features))


@contextmanager
def last_inputs(model: nn.Module, who: str) -> Iterator[Features]:
    """Yields the function that gives what the last linear layer of `model` takes.

    The function raises `ModelError`, in the name of `who`, where the outputs are not those of a
    linear layer. Gradients flow through it.
    """
    seen: list[tuple[nn.Linear, Tensor, Tensor]] = []

    def keep(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer, nn.Linear)
        seen[:] = [(layer, args[0], output)]

    def both(x: Tensor) -> tuple[Tensor, nn.Linear]:
        seen.clear()
        logits = model(x)
        if not seen or seen[0][2].shape != logits.shape or not _same(seen[0][2], logits):
            raise ModelError(
                f"{who} needs a network whose outputs come straight from a linear layer"
            )
        return seen[0][1], seen[0][0]

    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    handles = [module.register_forward_hook(keep) for module in linear]
    try:
        yield both
    finally:
        for handle in handles:
            handle.remove()


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one.float(), other.float(), rtol=1e-4, atol=1e-5)
