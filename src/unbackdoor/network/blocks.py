"""The encoder blocks of a transformer: attention and an MLP, each behind a norm."""

from __future__ import annotations

from torch import nn


def find_blocks(model: nn.Module) -> dict[str, int]:
    """The paths of the encoder blocks of `model`, and how many numbers each gives of a token.

    A block is a module that itself has two layer norms or more, and no such module inside. There is
    none in a convolutional network, ConvNeXt included.
    """
    found: dict[str, int] = {}
    for name, module in model.named_modules():
        norms = [child for child in module.children() if isinstance(child, nn.LayerNorm)]
        if len(norms) > 1:
            found[name] = norms[0].normalized_shape[-1]
    outer = {name for name in found if any(_inside(other, name) for other in found)}
    return {name: width for name, width in found.items() if name not in outer}


def _inside(path: str, outer: str) -> bool:
    return path != outer and (not outer or path.startswith(f"{outer}."))
