"""Files: what their bytes hash to; how they are written whole or not at all, and where."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


def write_whole(path: Path, data: bytes, *, lasting: bool = True) -> None:
    """`path` gets `data` in one step: a reader finds the old file or the new one, never a part."""
    with whole(path, lasting=lasting) as half:
        half.write_bytes(data)


@contextmanager
def whole(path: Path, *, lasting: bool = True) -> Iterator[Path]:
    """A new, empty file beside `path` to write into; at the end it becomes `path` in one step.

    An error leaves the old file, and nothing else. A link that lies at `path` is replaced, never
    followed. A file that is not `lasting` may be lost with the power: it can be made again.
    Raises `OutputError` for what the system refuses.
    """
    half = path.with_name(f".{path.name[:200]}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        half.unlink(missing_ok=True)
        half.touch(exist_ok=False)  # ours: nobody's link
        try:
            yield half
            if lasting:
                _sync(half)
            half.replace(path)
            if lasting:
                _sync(path.parent)
        finally:
            half.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None


def inside(folder: Path, name: str) -> Path:
    """The place of `name` in `folder`; raises `OutputError` where it leads out of it.

    By `..`, as an absolute path, or through a link in the way. `folder` itself may be a link.
    """
    path, parts = folder, Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts or "\0" in name:
        raise OutputError(f"{name[:200]!r} is no name of a file in {folder}")
    for part in parts[:-1]:
        path = path / part
        if path.is_symlink():
            raise OutputError(f"{path} is a link, so nothing is written there; take it away")
    return path / parts[-1]


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """While it lasts, no other run gets in here for the same `out`: it gets an `OutputError`.

    The lock is the operating system's and ends with the process, however that ends. A folder that
    is there is locked itself; else a hidden file beside it, which goes away at the end.
    """
    out = out.absolute()
    hidden = out.with_name(f".{out.name[:200]}.lock")
    beside = None if out.is_dir() else hidden
    made = [folder for folder in out.parents if not folder.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        handle = _locked(out if beside is None else beside, make=beside is not None)
    except BlockingIOError:
        raise OutputError(
            f"{out} is being written by another run; wait for it, or choose another --out"
        ) from None
    except OSError as error:
        raise OutputError(f"cannot write to {out}: {error.strerror or error}") from None
    try:
        yield
    finally:
        if beside:
            beside.unlink(missing_ok=True)
        else:
            _swept(hidden)
        os.close(handle)
        with suppress(OSError):  # of the folders made for this, those that stayed empty
            for folder in made:
                folder.rmdir()


def _swept(hidden: Path) -> None:
    """Takes away the lock file of a run that was killed just after it had made its folder."""
    with suppress(OSError):
        handle = _locked(hidden, make=False)
        hidden.unlink()
        os.close(handle)


def _locked(path: Path, *, make: bool) -> int:
    """A handle that holds the lock of `path`; raises `BlockingIOError` where another one has it."""
    while True:
        handle = os.open(path, (os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW) if make else os.O_RDONLY)
        try:
            with _unknown():
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who held it before may have taken the file away: then this is the lock of nobody.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), path.stat()):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


@contextmanager
def _unknown() -> Iterator[None]:
    """A file system without locks is written to without one."""
    try:
        yield
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EBADF):
            raise


def _sync(path: Path) -> None:
    """Else a power cut may leave the name to a file that never reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
