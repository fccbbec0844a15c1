"""Files: what their bytes hash to, and how they are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from .errors import CheckpointError, OutputError


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


def write_whole(path: Path, data: bytes) -> None:
    """`path` gets `data` in one step: a reader finds the old file or the new one, never a part."""
    half = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with half.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            half.replace(path)
        finally:
            half.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None
