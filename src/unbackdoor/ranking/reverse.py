"""Feature reverse generation: for each channel, the images nudged to move its feature map most.

Step 1 of FMP (Huang & Bu, ICLR 2024, arXiv 2307.11565), with as little work as it needs: the
forward pass to a layer is shared by all of its channels, and each channel's gradient enters at the
layer's input, where a single channel's share is cheap, instead of at its output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from ..core.run import Run
from ..network.channels import channels_first
from ..network.layers import Layer
from ..network.lean import Fused

_FILL = 32
"""So many images of one channel fill a backward pass: batching channels gains nothing more."""


@dataclass(frozen=True)
class Nudge:
    """How images are moved: from a start `alpha` away, `steps` gradient-sign steps of `step`.

    All are L-inf, for pixels in [0, 1]. The start lies in random directions. A `step` is of `eps`
    unless it is given. With `projected` an image stays within `eps` of the clean one; always in
    [0, 1].
    """

    eps: float
    alpha: float
    steps: int
    step: float | None = None
    projected: bool = True

    @property
    def stride(self) -> float:
        """The size of a step."""
        return self.eps if self.step is None else self.step

    def within(self, moved: Tensor, x: Tensor) -> Tensor:
        """`moved`, brought back to at most `eps` from the clean `x` and into [0, 1]."""
        if self.projected:
            moved = torch.maximum(torch.minimum(moved, x + self.eps), x - self.eps)
        return moved.clamp(0, 1)


class _ReachedLayerError(Exception):
    """Ends a forward pass at the layer that was asked for."""


def at_layer(model: nn.Module, layer: Layer, x: Tensor) -> tuple[Tensor, Tensor]:
    """What `layer` takes in on the images `x`, and the maps `[n, channels, ...]` it puts out.

    The pass ends there.
    """
    module = model.get_submodule(layer.name)
    found: list[tuple[Tensor, Tensor]] = []

    def stop(
        _: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor], y: Tensor
    ) -> NoReturn:
        inputs = args[0] if args else named["input"]
        if isinstance(module, Fused):
            y = module.plain(inputs)
        found.append((inputs, channels_first(module, y)))
        raise _ReachedLayerError

    handle = module.register_forward_hook(stop, with_kwargs=True)
    try:
        model(x.clone())  # some models normalise in place
    except _ReachedLayerError:
        pass
    finally:
        handle.remove()
    return found[0]


class Reversal:
    """The images that move the maps of one layer's channels, made for any of its channels.

    `x` is `[n, c, h, w]` in [0, 1], `signs` the random directions of the start (-1 or 1, like
    `x`). Pushes the squared distance between a channel's map and its map on `x` up. `exact` is the
    model in float32, `fast` the same from `lean`: distances are differences of nearly
    equal numbers, so they are taken in float32; gradients bear less.
    """

    def __init__(
        self,
        exact: nn.Module,
        fast: nn.Module,
        layer: Layer,
        x: Tensor,
        signs: Tensor,
        nudge: Nudge,
        run: Run,
    ) -> None:
        self.exact, self.fast, self.layer = exact, fast, layer
        self.x, self.nudge, self.run = x, nudge, run
        module = fast.get_submodule(layer.name)
        self.module = module.plain if isinstance(module, Fused) else module
        self.start = nudge.within(x + nudge.alpha * signs, x)
        with torch.no_grad():
            _, self.calm = at_layer(exact, layer, x)
            _, first = at_layer(exact, layer, self.start)
        self.distance = first - self.calm
        self.leaf = self.start.contiguous(memory_format=torch.channels_last).requires_grad_()
        with torch.enable_grad(), run.autocast():
            self.inputs, self.maps = at_layer(fast, layer, self.leaf)

    def images(self, channels: Tensor) -> Tensor:
        """The images `[k, n, c, h, w]` in [0, 1] for the `channels` int64 `[k]`."""
        start = self.start.expand(len(channels), *self.start.shape)
        moved = self._step(start, self._shared_gradients(channels))
        for _ in range(1, self.nudge.steps):
            moved = self._step(moved, self._gradients(channels, moved))
        return moved

    def push(self, channels: Tensor, moved: Tensor) -> Tensor:
        """How far each channel's map is moved by its images (RMS of the change): `[k, n]`."""
        own = channels.repeat_interleave(moved.shape[1])
        with torch.no_grad():
            _, maps = at_layer(self.exact, self.layer, moved.flatten(0, 1))
        maps = maps[torch.arange(len(own), device=own.device), own]
        change = maps - self.calm[:, channels].movedim(1, 0).flatten(0, 1)
        return change.flatten(1).square().mean(1).sqrt().view(moved.shape[:2])

    def _step(self, moved: Tensor, gradients: Tensor) -> Tensor:
        return self.nudge.within(moved + self.nudge.stride * gradients.sign(), self.x)

    def _shared_gradients(self, channels: Tensor) -> Tensor:
        """The gradients `[k, n, c, h, w]` at the start, which all channels share."""
        ends, cotangents = self._cotangents(channels)
        if len(channels) == 1 or len(self.x) >= _FILL:
            alone = [
                torch.autograd.grad(ends, self.leaf, cotangent, retain_graph=True)[0]
                for cotangent in cotangents
            ]
            return torch.stack(alone)
        (gradients,) = torch.autograd.grad(
            ends, self.leaf, cotangents, retain_graph=True, is_grads_batched=True
        )
        return gradients

    def _cotangents(self, channels: Tensor) -> tuple[Tensor, Tensor]:
        """A tensor of the pass and, for each channel, the gradient `[k, *its shape]` there."""
        pushed = self.distance[:, channels]
        enter = _input_cotangents(self.module)
        if enter is not None:
            pushed = pushed.to(self.inputs.dtype)
            return self.inputs, enter(self.inputs, pushed, channels)
        whole = self.maps.new_zeros(len(channels), *self.maps.shape)
        whole[torch.arange(len(channels), device=channels.device), :, channels] = pushed.movedim(
            1, 0
        ).to(whole)
        return self.maps, whole

    def _gradients(self, channels: Tensor, moved: Tensor) -> Tensor:
        """The gradients `[k, n, c, h, w]` at images of each channel's own."""
        n = moved.shape[1]
        calm = self.calm[:, channels].movedim(1, 0).flatten(0, 1)
        own = channels.repeat_interleave(n)
        with self.run.autocast():
            return _gradients(self.fast, self.layer, own, moved.flatten(0, 1), calm).view_as(moved)


def moved_rows(
    model: nn.Module, layer: Layer, channels: Tensor, x: Tensor, signs: Tensor, nudge: Nudge
) -> Tensor:
    """`x` `[n, c, h, w]` moved for a channel of each image's own; `channels` is int64 `[n]`."""
    with torch.no_grad():
        _, maps = at_layer(model, layer, x)
    calm = maps[torch.arange(len(x), device=x.device), channels]
    moved = nudge.within(x + nudge.alpha * signs, x)
    for _ in range(nudge.steps):
        gradients = _gradients(model, layer, channels, moved, calm)
        moved = nudge.within(moved + nudge.stride * gradients.sign(), x)
    return moved


def _gradients(model: nn.Module, layer: Layer, channels: Tensor, x: Tensor, calm: Tensor) -> Tensor:
    """The gradient `[n, c, h, w]` of the squared distance of one map of each image from `calm`."""
    leaf = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.enable_grad():
        _, maps = at_layer(model, layer, leaf)
        own = maps[torch.arange(len(x), device=x.device), channels].float()
        distance = (own - calm).square().sum()
    (gradient,) = torch.autograd.grad(distance, leaf)
    return gradient


def _input_cotangents(module: nn.Module) -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
    """How gradients of single channels of `module` enter at its input; None if only at its output.

    The function takes the input `[n, ...]`, the gradients `[n, k, ...]` of `k` channels' maps and
    the channels, and gives the gradients `[k, n, ...]` of the input.
    """
    if isinstance(module, nn.Linear):
        weight = module.weight

        def of_linear(inputs: Tensor, pushed: Tensor, channels: Tensor) -> Tensor:
            rows = weight[channels].view(-1, *[1] * (inputs.ndim - 1), inputs.shape[-1])
            entering: Tensor = pushed.movedim(1, 0)[..., None] * rows
            return entering

        return of_linear
    if not isinstance(module, nn.Conv2d) or module.padding_mode != "zeros":
        return None
    if isinstance(module.padding, str):
        return None
    conv: Any = module

    def of_conv(inputs: Tensor, pushed: Tensor, channels: Tensor) -> Tensor:
        n, wide, *size = inputs.shape
        k, share = len(channels), wide // conv.groups
        entering: Tensor = conv2d_input(  # type: ignore[no-untyped-call]
            (n, k * share, *size),
            conv.weight[channels],
            pushed,
            conv.stride,
            conv.padding,
            conv.dilation,
            groups=k,
        )
        entering = entering.reshape(n, k, share, *size).movedim(1, 0)
        if conv.groups == 1:
            return entering
        group = channels // (conv.out_channels // conv.groups)
        spread = entering.new_zeros(k, n, conv.groups, share, *size)
        spread[torch.arange(k, device=channels.device), :, group] = entering
        return spread.flatten(2, 3)

    return of_conv
