"""Gates: masks in [0, 1] on what layers or encoder blocks put out, and on none of their weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import find_blocks
from .inserts import Gate, attach_, scaled


class Gated(nn.Module):
    """`net`, which is its own copy, with the outputs of its `hosts` multiplied by gates.

    `hosts` are paths and how many channels each puts out. `kept` and `shared` hold m and s
    `[channels]` of each host: the only parameters that train. A gate is M + s (1 - M), with
    M = sigmoid(slope (m - 0.5)).
    """

    def __init__(self, net: nn.Module, hosts: Mapping[str, int], slope: float) -> None:
        super().__init__()
        self.net, self.slope = net.requires_grad_(False), slope
        device = next(net.parameters()).device
        ones = [torch.ones(channels, device=device) for channels in hosts.values()]
        self.kept = nn.ParameterList([nn.Parameter(one.clone()) for one in ones])
        self.shared = nn.ParameterList([nn.Parameter(one.clone()) for one in ones])
        self._now: list[Tensor] = []
        for index, host in enumerate(hosts):
            net.get_submodule(host).register_forward_hook(partial(self._gate, index))

    def _gate(self, index: int, host: nn.Module, _: object, y: Any) -> Any:
        return scaled(host, y, self._now[index])

    def gates(self, *, inverse: bool = False) -> list[Tensor]:
        """The gate `[channels]` of each host, in [0, 1]."""
        sign = -1.0 if inverse else 1.0
        masks = [torch.sigmoid(sign * self.slope * (kept - 0.5)) for kept in self.kept]
        return [m + s * (1 - m) for m, s in zip(masks, self.shared, strict=True)]

    def forward(self, x: Tensor, *, inverse: bool = False) -> Tensor:
        """Images `[n, c, h, w]` in [0, 1] -> logits `[n, classes]` of the masked network."""
        self._now = self.gates(inverse=inverse)
        told: Tensor = self.net(x)
        return told.float()

    @torch.no_grad()
    def clip_(self) -> None:
        """Brings m and s back into [0, 1]."""
        for parameter in (*self.kept, *self.shared):
            parameter.clamp_(0, 1)


@torch.no_grad()
def bake_(model: nn.Module, gates: Mapping[str, Tensor]) -> None:
    """Multiplies what each host of `model` puts out by its gate `[channels]`, for good.

    The weights and the bias of a layer hold that; an encoder block gets a gate behind it.
    """
    blocks = find_blocks(model)
    for name, gate in gates.items():
        host = model.get_submodule(name)
        if name in blocks:
            attach_(model, name, Gate(len(gate), gate.clone()))
            continue
        for part in host.parameters(recurse=False):
            part.mul_(gate.view(-1, *[1] * (part.ndim - 1)))
