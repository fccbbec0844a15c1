"""Which known networks have just these tensors: their names and shapes tell.

A network is built without memory for its weights, and given up at the first tensor whose shape
the file does not hold, so that a thousand architectures take seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from ..core.errors import ParameterError, UnbackdoorError

MOST_STRANGE = 8
"""Parameters of other shapes that may be made: some builders make a layer to try it, or a stem
that is then replaced."""

PROBE = 1013
"""A number of classes that no width of a layer has: where it shows, there the classes are."""

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Fit:
    """An architecture with the very tensors that were given, and what they tell of it."""

    arch: str
    options: Mapping[str, Any] = field(default_factory=dict)
    classes: int = 0


class _OtherShapeError(Exception):
    """A tensor that the file does not hold: the network is another one."""


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def classes_told(net: nn.Module, shapes: Shapes) -> int | None:
    """How many classes `shapes` tell, if they are those of `net`, built for `PROBE` of them.

    None where they are not: another name, or another shape than that of the last layer.
    """
    wanted = shapes_of(net.state_dict())
    if any(name not in wanted for name in shapes):
        return None
    counts = set()
    for name, shape in wanted.items():
        found = shapes.get(name)
        if found is None:
            if name.endswith("num_batches_tracked"):
                continue
            return None
        if shape == found:
            continue
        if not shape or not found or shape[0] != PROBE or shape[1:] != found[1:]:
            return None
        counts.add(found[0])
    return counts.pop() if len(counts) == 1 else None


def own(state: Mapping[str, Tensor]) -> Iterator[Fit]:
    """Ours and torchvision's that fit `state`, whatever of the known names its parts have."""
    from . import infer, names, renamed, unused

    for arch in names():
        ours = {renamed(arch, name): tensor for name, tensor in state.items()}
        ours = {n: t for n, t in ours.items() if not any(map(n.startswith, unused(arch)))}
        try:
            options = infer(arch, ours)
        except (LookupError, ValueError):
            continue
        count = _count(arch, options, shapes_of(ours))
        if count:
            yield Fit(arch, options, count)


def timm(state: Mapping[str, Tensor]) -> Iterator[Fit]:
    """Those of timm that fit `state`; none where it is not installed."""
    try:
        import timm as library
    except ImportError:
        return
    shapes = shapes_of(state)
    for name in library.list_models():
        count = _count(f"timm:{name}", {}, shapes)
        if count:
            yield Fit(f"timm:{name}", {}, count)


def count(arch: str, options: Mapping[str, Any], state: Mapping[str, Tensor]) -> int | None:
    """How many classes `state` tells of `arch`; None where they are not its tensors."""
    from . import bare, names

    shapes = shapes_of(state)
    try:
        # Without memory first: a small file may claim a huge network.
        known = arch in names() or arch.startswith(("timm:", "transformers:"))
        with torch.device("meta" if known else "cpu"):
            net = bare(arch, PROBE, options)
    except ParameterError:
        net = bare(arch, PROBE, options)
    return classes_told(net, shapes)


def _count(arch: str, options: Mapping[str, Any], shapes: Shapes) -> int | None:
    from . import bare

    with _only(shapes):
        for device in ("meta", "cpu"):
            try:
                with torch.device(device):
                    return classes_told(bare(arch, PROBE, options), shapes)
            except _OtherShapeError:
                return None
            except (UnbackdoorError, RuntimeError, ValueError, TypeError):
                # Some networks compute with tensors while they are built.
                continue
    return None


@contextmanager
def _only(shapes: Shapes) -> Iterator[None]:
    """Building a network inside ends soon after parameters of shapes that are not there."""
    left = Counter(shape for name, shape in shapes.items() if not name.endswith(BUFFERS))
    tails = {shape[1:] for shape in left if shape}
    strange = 0

    def check(_: nn.Module, __: str, parameter: nn.Parameter | None) -> None:
        nonlocal strange
        shape = tuple(parameter.shape) if parameter is not None else ()
        if parameter is None or (shape[:1] == (PROBE,) and shape[1:] in tails):
            return
        left[shape] -= 1
        strange += left[shape] < 0
        if strange > MOST_STRANGE:
            raise _OtherShapeError

    handle = register_module_parameter_registration_hook(check)
    try:
        yield
    finally:
        handle.remove()
