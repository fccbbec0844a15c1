"""What the builders of our own networks share: checking their numbers."""

from __future__ import annotations

from ..core.errors import ParameterError


def whole(**given: object) -> None:
    """Raises `ParameterError` for an option that is no whole number of at least 1."""
    for name, value in given.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ParameterError(f"{name} must be a whole number of at least 1, got {value!r}")
