"""What code that is not ours raised, in a few words: its kind, its text and where."""

from __future__ import annotations

import traceback
from pathlib import Path

HERE = str(Path(__file__).parents[1])


def reason(error: BaseException) -> str:
    """The kind of an error and the first line of its text."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    first = " ".join((text or "").strip().partition("\n")[0].split())[:200]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def place(error: BaseException) -> str:
    """Where foreign code raised `error`, as ` at FILE, line N`; empty where that is not known."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" at {error.filename}, line {error.lineno}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((HERE, "<frozen"))
        and "site-packages" not in frame.filename
    ]
    return f" at {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""
