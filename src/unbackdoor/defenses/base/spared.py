"""Spared layers: what is said where pruning takes no channel of a layer."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.errors import listed
from ...network.layers import Layer


def narrow(count: str | int) -> str:
    """Why a layer is spared that is too narrow for one channel in `count`."""
    return f"which have fewer than {count} channels"


def said(spared: Sequence[Layer], layers: Sequence[Layer], why: str) -> str:
    """What a defense does to the `spared` ones of `layers`, as the end of a sentence."""
    what = f"prunes nothing from {len(spared)} of {len(layers)} layers, {why}"
    if len(spared) < len(layers):
        return f"{what} ({listed(layer.name for layer in spared)})"
    return f"{what}: the widest layer has {max(layer.channels for layer in layers)} channels"
