"""Batches of one image, of which some norms cannot learn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ...core.errors import ImagesError

TOLD = "Expected more than 1 value per channel"
"""How torch begins to say that a batch norm in train mode got one value of each channel."""


@contextmanager
def batches_of_one_refused(who: str) -> Iterator[None]:
    """Raises `ImagesError`, in the name of `who`, where a norm cannot learn of a batch inside."""
    try:
        yield
    except ValueError as error:
        if not str(error).startswith(TOLD):
            raise
        raise ImagesError(
            f"{who} came to a batch of one image, of which a batch norm of the model learns "
            "nothing; give more clean images, or other batches (batch)"
        ) from None
