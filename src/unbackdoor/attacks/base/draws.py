"""Numbers that an image draws from its own pixels: random, and the same again."""

from __future__ import annotations

import torch
from torch import Tensor


def draws(x: Tensor, wanted: int) -> Tensor:
    """Numbers in [0, 1) `[wanted, n]` that follow from the pixels of each image alone.

    One changed pixel changes them. Pixels count in 8 bits.
    """
    levels = x.mul(255).round().long().flatten(1)
    places = torch.arange(1, levels.shape[1] + 1, device=x.device)
    found = []
    state = (levels * (places * 40503 % 65521)).sum(1) % 2147483647
    for _ in range(wanted):
        # Park and Miller's generator; one more step between, for neighbours are alike at first.
        state = (state + 1) * 48271 % 2147483647
        state = (state + 1) * 48271 % 2147483647
        found.append(state.double() / 2147483648)
    return torch.stack(found).to(x)
