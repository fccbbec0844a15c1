"""Feature reverse generation: for each channel, the images nudged to move its feature map most.

Step 1 of FMP (Huang & Bu, ICLR 2024, arXiv 2307.11565), and the scores that step 2 ranks by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .channels import Layer, channels_first
from .modules import frozen, in_mode
from .run import Run


@dataclass(frozen=True)
class Nudge:
    """How images are moved: `steps` gradient-sign steps of `alpha`, at most `eps` away.

    Both are L-inf, for pixels in [0, 1]. The first point is one `alpha` away in random directions.
    """

    eps: float
    alpha: float
    steps: int


@dataclass(frozen=True, eq=False)
class ChannelScore:
    """How the model does on the images made for each channel of a layer: float32 `[channels]`."""

    accuracy: Tensor
    loss: Tensor


class _ReachedLayerError(Exception):
    """Ends a forward pass at the layer that was asked for."""


def _map_of(model: nn.Module, layer: Layer, x: Tensor) -> Tensor:
    """The feature maps `[n, channels, ...]` of `layer` on `x`; the pass ends there."""
    module = model.get_submodule(layer.name)
    found: list[Tensor] = []

    def stop(_: nn.Module, args: object, y: Tensor) -> NoReturn:
        found.append(channels_first(module, y))
        raise _ReachedLayerError

    handle = module.register_forward_hook(stop)
    try:
        model(x)
    except _ReachedLayerError:
        pass
    finally:
        handle.remove()
    return found[0]


def reversed_images(
    model: nn.Module, layer: Layer, channels: Tensor, x: Tensor, signs: Tensor, nudge: Nudge
) -> Tensor:
    """The images `[k, n, c, h, w]` in [0, 1] that move the map of each of `k` channels most.

    `x` is `[n, c, h, w]` in [0, 1], `signs` the random directions of the start (-1 or 1, like
    `x`), `channels` int64 `[k]`. Pushes the squared distance between the channel's map and its map
    on `x` up; every image stays within `eps` of its clean one.
    """
    with torch.no_grad():
        calm = _map_of(model, layer, x)[:, channels]
    start = (x + nudge.alpha * signs).clamp(0, 1)
    low, high = (x - nudge.eps).clamp(0, 1), (x + nudge.eps).clamp(0, 1)
    k = len(channels)
    moved = torch.maximum(torch.minimum(start, high), low).expand(k, *x.shape)
    for _ in range(nudge.steps):
        ascent = _directions(model, layer, channels, moved, calm)
        moved = moved + nudge.alpha * ascent.sign()
        moved = torch.maximum(torch.minimum(moved, high), low)
    return moved


def _directions(
    model: nn.Module, layer: Layer, channels: Tensor, moved: Tensor, calm: Tensor
) -> Tensor:
    """The gradient `[k, n, c, h, w]` of each channel's squared distance from its `calm` map."""
    k, n = moved.shape[:2]
    flat = moved.reshape(k * n, *moved.shape[2:]).contiguous(memory_format=torch.channels_last)
    flat.requires_grad_()
    maps = _map_of(model, layer, flat)
    maps = maps.view(k, n, *maps.shape[1:])
    own = maps[torch.arange(k), :, channels]
    distance = (own - calm.movedim(1, 0)).float().square().sum()
    (gradient,) = torch.autograd.grad(distance, flat)
    return gradient.view_as(moved)


def score_layer(
    model: nn.Module,
    layer: Layer,
    x: Tensor,
    y: Tensor,
    signs: Tensor,
    nudge: Nudge,
    run: Run,
    advance: Callable[[int], None],
    *,
    chunk: int,
) -> ChannelScore:
    """The model's accuracy and mean loss on the images made for each channel of `layer`.

    `x` `[n, c, h, w]` in [0, 1] with labels `y` int64 `[n]`; `chunk` channels are worked on at a
    time; `advance` is told of each chunk.
    """
    accuracy, loss = [], []
    with in_mode(model, train=False), frozen(model), run.autocast():
        for channels in torch.arange(layer.channels, device=x.device).split(chunk):  # type: ignore[no-untyped-call]
            moved = reversed_images(model, layer, channels, x, signs, nudge)
            hit, lost = _verdict(model, moved, y)
            accuracy.append(hit)
            loss.append(lost)
            advance(len(channels))
    return ChannelScore(torch.cat(accuracy).cpu(), torch.cat(loss).cpu())


@torch.no_grad()
def _verdict(model: nn.Module, moved: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(accuracy, mean loss), each `[k]`, on the images `moved` `[k, n, c, h, w]`."""
    k, n = moved.shape[:2]
    flat = moved.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    logits = model(flat).float()
    losses = F.cross_entropy(logits, y.repeat(k), reduction="none").view(k, n)
    hits = (logits.argmax(1).view(k, n) == y).float()
    return hits.mean(1), losses.mean(1)


def ranked(score: ChannelScore) -> Tensor:
    """The channels int64 `[channels]` from the most suspect on: lowest accuracy, then largest loss.

    Channels that tie in both stand in the order of their numbers.
    """
    by_loss = torch.argsort(score.loss, descending=True, stable=True)
    return by_loss[torch.argsort(score.accuracy[by_loss], stable=True)]


def channels_in(layers: Sequence[Layer]) -> int:
    """How many channels the layers have together."""
    return sum(layer.channels for layer in layers)
