"""What a network gives, as logits: a tensor, or the one part of its outputs that plainly is it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from .errors import ModelError, UnbackdoorWarning


def logits_of(outputs: object, classes: int, who: str = "the model") -> Tensor:
    """The logits `[n, classes]` in what a forward pass gave.

    That is `outputs` itself; its attribute or entry `logits`, as networks of transformers give it;
    or the only tensor `[n, classes]` of a tuple, list or dict, which is said. Raises `ModelError`,
    naming what came, where there is no such thing.
    """
    if isinstance(outputs, Tensor):
        return outputs
    named = outputs.get("logits") if isinstance(outputs, Mapping) else None
    if named is None:
        named = getattr(outputs, "logits", None)
    if isinstance(named, Tensor):
        return named
    parts = list(outputs.values()) if isinstance(outputs, Mapping) else outputs
    if isinstance(parts, tuple | list):
        fitting = [
            (place, part)
            for place, part in enumerate(parts)
            if isinstance(part, Tensor) and part.ndim == 2 and part.shape[1] == classes
        ]
        if len(fitting) == 1:
            place, logits = fitting[0]
            warnings.warn(
                f"{who} gives {len(parts)} outputs; the one of shape [n, {classes}], number "
                f"{place + 1}, is taken as its logits",
                UnbackdoorWarning,
                stacklevel=2,
            )
            return logits
    raise ModelError(f"{who} gives {_told(outputs)}, not logits [n, {classes}]")


def _told(outputs: object) -> str:
    name = type(outputs).__name__
    parts = list(outputs.values()) if isinstance(outputs, Mapping) else outputs
    if not isinstance(parts, tuple | list):
        return f"a {name}"
    kinds = [
        str(list(part.shape)) if isinstance(part, Tensor) else type(part).__name__ for part in parts
    ]
    return f"a {name} of {', '.join(kinds[:5]) or 'nothing'}"


def probabilities(outputs: Tensor) -> bool:
    """Whether outputs `[n, classes]` are probabilities: none below 0, and each row's sum is 1.

    Rows of a single 1 are not enough: a network may give its answer as such a row.
    """
    if outputs.ndim != 2 or outputs.shape[1] < 2 or not outputs.is_floating_point():
        return False
    sums = outputs.float().sum(1)
    if not bool(((outputs > 0) & (outputs < 1)).any()):
        return False
    return bool((outputs >= 0).all()) and bool(torch.allclose(sums, torch.ones_like(sums)))
