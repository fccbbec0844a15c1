"""Inverting: repairs that find a trigger first, so that others can use it (PAM)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

from torch import Tensor, nn

from ...core.images import Images
from ...core.run import Run
from .defense import Augmented

Trigger = Callable[[Tensor], Tensor]
"""Images `[n, c, h, w]` in [0, 1] -> the same with the trigger that was found."""


class Inverting(Augmented):
    """A defense that can say which trigger it found."""

    @abstractmethod
    def search(self, images: int, classes: int) -> float:
        """How many images `inverted` takes through the model and back."""

    def afford(self, model: nn.Module, clean: Images, searches: int) -> None:
        """Raises `ParameterError` where so many searches would take too long, if it has a limit."""

    @abstractmethod
    def inverted(self, model: nn.Module, clean: Images, run: Run) -> Trigger | None:
        """A trigger of `model`, or None where none was found; `model` stays as it is."""
