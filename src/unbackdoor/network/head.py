"""The classifier of any network: the layer that puts out the logits, and the features it sees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..core.errors import ModelError
from ..core.modules import device_of, in_mode

Head = nn.Linear | nn.Conv2d
"""A linear layer, or a convolution whose maps are averaged over their area."""


def find_head(model: nn.Module, x: Tensor, who: str) -> tuple[str, Head]:
    """The path and the module of the layer of `model` whose output on `x` is the logits.

    What follows it may average over an area, rectify, or take a log-softmax: none of this changes
    which features it sees. Raises `ModelError`, in the name of `who`, where there is none.
    """
    outputs: list[tuple[str, Head, Tensor]] = []
    handles = [
        module.register_forward_hook(
            lambda module, _, y, name=name: outputs.append((name, module, y.clone()))
        )
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    ]
    try:
        with in_mode(model, train=False), torch.no_grad():
            logits = model(x.to(device_of(model)))
    finally:
        for handle in handles:
            handle.remove()
    if not outputs or not _becomes(outputs[-1][2], logits):
        raise ModelError(
            f"{who} needs a linear layer or a convolution that puts out the logits; "
            f"that of {type(model).__name__} was not found"
        )
    return outputs[-1][:2]


def _becomes(y: Tensor, logits: Tensor) -> bool:
    """Whether `logits` `[n, classes]` are no more than `y`, averaged or rectified or both."""
    for one in (y, y.relu()):
        flat = one.flatten(2).mean(2) if one.ndim == 4 else one
        if flat.shape != logits.shape:
            return False
        for same in (flat, flat.log_softmax(1)):
            if torch.allclose(same.float(), logits.float(), rtol=1e-4, atol=1e-5):
                return True
    return False


@contextmanager
def features_into(head: nn.Module) -> Iterator[list[Tensor]]:
    """A list that passes inside fill with what `head` is given: `[n, features]` or with an area."""
    seen: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    try:
        yield seen
    finally:
        handle.remove()


def features_of(model: nn.Module, head: Head, x: Tensor) -> tuple[Tensor, Tensor]:
    """(the features `[n, features, ...]` that `head` sees of images `x`, the logits)."""
    seen: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        logits = model(x)
    finally:
        handle.remove()
    return seen[-1], logits


def answers_of(head: Head, features: Tensor) -> Tensor:
    """The logits `[n, classes]` that `head` makes of features, averaged over their area."""
    y: Tensor = head(features)
    return y.flatten(2).mean(2) if y.ndim == 4 else y


def width(head: nn.Module) -> int:
    """How many features the classifier `head` sees."""
    return _weight(head).shape[1]


@torch.no_grad()
def hide_(head: nn.Module, mask: Tensor) -> None:
    """Makes `head` blind to the features where `mask`, bool `[features]`, is True."""
    weight = _weight(head)
    columns = mask.to(weight.device).view(1, -1, *[1] * (weight.ndim - 2))
    weight.masked_fill_(columns, 0)


def _weight(head: nn.Module) -> Tensor:
    assert isinstance(head, (nn.Linear, nn.Conv2d))
    return head.weight


class FeatureMask(nn.Module):
    """A mask that is learned: features `[n, features, ...]` -> a share of each of them."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.start = nn.Parameter(start)

    @property
    def share(self) -> Tensor:
        """`[features]` in [0, 1]."""
        return (self.start.tanh() + 1) / 2

    def forward(self, features: Tensor) -> Tensor:
        """The masked features."""
        return along(self.share, features) * features


def along(mask: Tensor, features: Tensor) -> Tensor:
    """The `mask` `[features]` in the shape that multiplies `features`."""
    return mask.view(1, -1, *[1] * (features.ndim - 2))
