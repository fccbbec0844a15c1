"""Output folders: complete or not there.

Files are written into a hidden sibling folder, which takes its name when all of them are there.
The verbs hold `core.files.alone` meanwhile, so what another run left there is of the dead.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..core.errors import OutputError
from ..core.files import inside

RECORD = "record.json"


def check(out: Path, *, force: bool, spared: str | None = None) -> None:
    """Raises `OutputError` where `out` cannot be written to, or holds files and not `force`.

    A file called `spared` in it does not count. Leaves nothing behind.
    """
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file, not a folder")
    if not force and out.is_dir() and any(found.name != spared for found in out.iterdir()):
        raise OutputError(f"{out} is not empty; --force replaces what this command writes in it")
    ground = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    with _failing(out):
        Path(tempfile.mkdtemp(prefix=".unbackdoor-", dir=ground)).rmdir()


@contextmanager
def written(out: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `out`, whole, at the end; nothing stays on an error.

    Where `out` holds files, those of the same names are replaced and the record is the last to
    come, so a folder with a record is always whole.
    """
    out = out.absolute()
    with _failing(out):
        made = _missing_parents(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        for left in out.parent.glob(f".{glob.escape(out.name)}-*.partial"):  # of a killed run
            shutil.rmtree(left, ignore_errors=True)
        half = Path(tempfile.mkdtemp(prefix=f".{out.name}-", suffix=".partial", dir=out.parent))
        try:
            yield half
            _sync(half)
            _publish(half, out)
        except BaseException:
            shutil.rmtree(half, ignore_errors=True)
            _remove_empty(made)
            raise


@contextmanager
def begun(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out` for what a command that was stopped need not do again.

    It may hold what such a command left. Only a stop leaves it there: the end removes it, and so
    does an error.
    """
    out = out.absolute()
    folder, made = inside(out.parent, f".{out.name}.begun"), _missing_parents(out)
    if folder.is_symlink():
        raise OutputError(f"{folder} is a link, so nothing is written there; take it away")
    try:
        yield folder
    except KeyboardInterrupt:
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        _remove_empty(made)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _missing_parents(out: Path) -> list[Path]:
    return [folder for folder in out.parents if not folder.exists()]


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        if folder.exists() and not any(folder.iterdir()):
            folder.rmdir()


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Writes `record`, indented."""
    path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _publish(half: Path, out: Path) -> None:
    half.chmod(0o777 & ~_umask())
    if not out.exists():
        half.rename(out)
        return
    (out / RECORD).unlink(missing_ok=True)
    for found in sorted(half.iterdir(), key=lambda path: path.name == RECORD):
        if found.is_dir():
            shutil.rmtree(out / found.name, ignore_errors=True)
        found.replace(out / found.name)
    half.rmdir()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(folder: Path) -> None:
    """A full disk may only show when the bytes reach it.

    Not what lies in folders: ten thousands of small images would take minutes.
    """
    for path in folder.iterdir():
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


@contextmanager
def _failing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write to {out}: {error.strerror or error}") from None
