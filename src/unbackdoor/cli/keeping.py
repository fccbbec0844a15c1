"""Where what an attack learns is kept from one command to the next."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..core.errors import OutputError
from . import output


def folder(chosen: Path | None) -> Path | None:
    """The `chosen` folder, else the user's; None if that one cannot be written to.

    Raises `OutputError` where the `chosen` one cannot be written to.
    """
    try:
        output.check(chosen or standard(), force=True)
    except (OutputError, RuntimeError):  # pathlib's for a user without a home
        if chosen:
            raise
        return None
    return chosen or standard()


def standard() -> Path:
    """The user's cache folder, as the platform wants it."""
    if sys.platform == "win32":
        ground = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        ground = Path.home() / "Library" / "Caches"
    else:
        ground = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return ground / "unbackdoor" / "learned"
