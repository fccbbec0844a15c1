"""The folder of a bench: one JSON file a result, written whole; who works on what. Without torch.

    plan/ID.json              what a grid wants: victims, defenses, and the cells made of them
    victims/ID.json           a victim: how it was made, how well it learned, its pictures
    victims/ID/               its weights, and what its trigger was made of
    cells/ID.json             a result, done or failed
    scans/ID.json             what a scanner says of a victim, done or failed
    linear/ID.json            how far a linear classifier comes on a data set
    claims/ID                 a file that a living process holds locked while it works on ID
    begun/ID/                 what a stopped repair need not do again

`ID` is a hash of the whole declaration, so the same declaration is the same work.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..core.errors import OutputError
from ..core.files import inside, whole

FORMAT = 1
"""Of the result files; another format is another identity, so old results are done again."""

MOST_BYTES = 2**26

Kind = Literal["plan", "victims", "cells", "scans", "linear"]
CLAIMED: tuple[Kind, ...] = ("victims", "cells", "scans")
"""Only who holds the claim writes these, so what else is half written there is of the dead."""
Record = dict[str, Any]


def identity(declaration: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that stand for a canonical `declaration` and the result format."""
    text = json.dumps([FORMAT, declaration], sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Store:
    """The results in `folder`, which need not exist yet."""

    folder: Path

    def path(self, kind: Kind, name: str) -> Path:
        """Where the record called `name` lies, if it is there."""
        return self.folder / kind / f"{name}.json"

    def has(self, kind: Kind, name: str) -> bool:
        """Whether there is such a record."""
        return self.path(kind, name).is_file()

    def read(self, kind: Kind, name: str) -> Record | None:
        """The record called `name`; None where there is none. Raises `OutputError` for no JSON."""
        return _read(self.path(kind, name))

    def all(self, kind: Kind) -> Iterator[Record]:
        """Every record of a kind, in the order of their names."""
        for path in sorted((self.folder / kind).glob("*.json")):
            if (record := _read(path)) is not None:
                yield record

    def write(self, kind: Kind, name: str, record: Mapping[str, Any]) -> None:
        """Writes a record whole: a reader, or a later run, finds all of it or none of it."""
        path = inside(self.folder, f"{kind}/{name}.json")
        text = json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
        for left in path.parent.glob(f".{path.name}.*.part") if kind in CLAIMED else ():
            left.unlink(missing_ok=True)
        with whole(path) as half:
            # Half a character, of a name that is no text, becomes JSON's escape of it.
            half.write_bytes(text.encode("utf-8", "backslashreplace"))

    def remove(self, kind: Kind, name: str) -> None:
        """Takes a record away, if it is there."""
        self.path(kind, name).unlink(missing_ok=True)

    def victim(self, name: str) -> Path:
        """The folder of the weights of a victim."""
        return self.folder / "victims" / name

    @contextmanager
    def claimed(self, name: str) -> Iterator[bool]:
        """Whether the work called `name` is ours while the context lasts; never waits.

        The claim is a lock of the operating system, which ends with the process that holds it,
        however it ends; so there are no claims of the dead.
        """
        path = inside(self.folder, f"claims/{name}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a")
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    @contextmanager
    def begun(self, name: str) -> Iterator[Path]:
        """A folder for what a stopped run need not do again; the end removes it."""
        folder = self.folder / "begun" / name
        yield folder
        shutil.rmtree(folder, ignore_errors=True)


def _read(path: Path) -> Record | None:
    try:
        if path.exists() and not path.is_file():  # a pipe or a device has no end
            raise ValueError("it is not a file")
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"a result has at most {MOST_BYTES:,} bytes")
        found = json.loads(path.read_bytes(), parse_constant=_no_number)
    except FileNotFoundError:
        return None
    except (OSError, RecursionError, ValueError) as error:
        raise OutputError(f"{path} is no result: {error}") from None
    if not isinstance(found, dict):
        raise OutputError(f"{path} is no result: it holds no object")
    return found


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number in JSON")
