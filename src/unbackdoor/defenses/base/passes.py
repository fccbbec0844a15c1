"""As many passes over few images as it takes."""

from __future__ import annotations

import math

from pydantic import Field

from ...core.method import source
from .defense import Defense


class Passes(Defense):
    """A defense that needs a number of steps, however few the clean images are."""

    enough_images: int = Field(
        5000,
        ge=1,
        description="over fewer images as many passes more as keep the number of steps",
        json_schema_extra=source("ours: 5,000, a tenth of CIFAR-10"),
    )

    def passes(self, images: int, epochs: int) -> int:
        """How many epochs over so many `images` stand for `epochs` over enough of them."""
        return math.ceil(epochs * max(1, self.enough_images / images))
