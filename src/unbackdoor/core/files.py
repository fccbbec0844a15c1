"""Files that are there: what their bytes hash to."""

from __future__ import annotations

import hashlib
from pathlib import Path

from .errors import CheckpointError


def sha256(path: Path | str) -> str:
    """The SHA-256 of a file, in hexadecimal; raises `CheckpointError` if it cannot be read."""
    try:
        with existing(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None


def existing(path: Path | str) -> Path:
    """`path`, if it is a file; raises `CheckpointError` otherwise."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file" if path.exists() else f"no such file: {path}")
    return path
