"""What a repair costs in passes: counted, not estimated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn


@contextmanager
def images_through(model: nn.Module) -> Iterator[tuple[list[int], list[int]]]:
    """Collects the number of images of every pass through `model`, or a copy, forth and back."""
    seen: list[int] = []
    back: list[int] = []

    def count(_: nn.Module, args: tuple[Tensor, ...], told: object) -> None:
        seen.append(len(args[0]))
        if isinstance(told, Tensor) and told.requires_grad:
            told.register_hook(partial(_add, back, len(args[0])))  # type: ignore[no-untyped-call]

    handle = model.register_forward_hook(count)
    try:
        yield seen, back
    finally:
        handle.remove()


def _add(counts: list[int], images: int, _: Tensor) -> None:
    counts.append(images)
