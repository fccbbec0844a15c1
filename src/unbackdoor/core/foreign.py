"""What code that is not ours raised, in a few words: its kind, its text and where."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UnbackdoorError

HERE = str(Path(__file__).parents[1])
STANDARD = sysconfig.get_path("stdlib")


def reason(error: BaseException) -> str:
    """The kind of an error and the first line of its text."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    first = " ".join((text or "").strip().partition("\n")[0].split())[:200]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


@contextmanager
def told_as(kind: type[UnbackdoorError], what: object) -> Iterator[None]:
    """Whatever a stranger's values raise inside becomes an error of this `kind`: `what`, and why.

    Errors that say it clearly pass as they are. There is no list of the others: what a reader can
    be made to raise by values of the wrong kind is not known.
    """
    try:
        yield
    except UnbackdoorError:
        raise
    except OSError as error:
        raise kind(f"{what}: {error.strerror or error}") from None
    except Exception as error:  # noqa: BLE001 - see above
        raise kind(f"{what}: it is damaged ({reason(error)})") from None


def place(error: BaseException) -> str:
    """Where foreign code raised `error`, as ` at FILE, line N`; empty where that is not known."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" at {error.filename}, line {error.lineno}"
    frames = [frame for frame in _known(error) if not frame.filename.startswith(HERE)]
    return f" at {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""


def ours(error: BaseException) -> bool:
    """Whether it was our code that raised `error`, of all code that is no library's."""
    frames = _known(error)
    return bool(frames) and frames[-1].filename.startswith(HERE)


def _known(error: BaseException) -> list[traceback.FrameSummary]:
    """The places that `error` came through, but for those in libraries and in Python's own."""
    return [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(("<frozen", STANDARD))
        and "site-packages" not in frame.filename
    ]
