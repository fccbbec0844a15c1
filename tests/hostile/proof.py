"""Inputs that do what must be seen: they prove that the campaign would see it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .inputs import CANARY, OUT, READ, REFUSED, Input
from .watch import SECONDS


def _canary() -> int:
    Path(CANARY).touch()
    return 0


def _shell() -> int:
    return os.system(f"mkdir -p {OUT} && touch {OUT}/{CANARY}")


def _traceback() -> int:
    print("Traceback (most recent call last)\n  ValueError: x", file=sys.stderr)
    return 2


def _fault() -> int:
    raise ValueError("nobody catches this")


def _crash() -> int:
    os.abort()


def _sleep() -> int:
    time.sleep(10 * SECONDS)
    return 2


def _memory() -> int:
    held = []
    for _ in range(64):  # 512 MiB
        held.append(b"x" * 2**23)
    return 2


def _outside() -> int:
    Path("..", "stolen").write_text("x")
    print("error: no", file=sys.stderr)
    return 2


def _escape() -> int:
    print("error: \x1b[31mred", file=sys.stderr)
    return 2


def _page() -> int:
    Path(OUT).mkdir()
    Path(OUT, "index.html").write_text("<p><script>hostile()</script>")
    return 0


def _silent() -> int:
    return 2


def _two_lines() -> int:
    print("error: one\nerror: two", file=sys.stderr)
    return 2


def _refused() -> int:
    print("error: no", file=sys.stderr)
    return 2


def _read() -> int:
    Path(OUT).mkdir()
    Path(OUT, "a").write_text("what may be written")
    return 0


SEEN: dict[str, tuple[str, Callable[[], int]]] = {
    "touches the canary": ("code runs", _canary),
    "starts a shell": ("code runs", _shell),
    "prints a traceback": ("tracebacks", _traceback),
    "raises": ("tracebacks", _fault),
    "dies of a signal": ("crashes", _crash),
    "sleeps": ("hangs", _sleep),
    "takes memory": ("over memory", _memory),
    "writes outside": ("outside", _outside),
    "colours the terminal": ("escapes", _escape),
    "writes a script into a page": ("escapes", _page),
    "says nothing": ("other ends", _silent),
    "says two lines": ("other ends", _two_lines),
    "reads what it should refuse": ("other ends", _read),
    "cannot be made": ("other ends", _refused),
}
"""Names of inputs: what each must be counted as, and what is done in it."""


def _nothing(folder: Path) -> list[str]:
    return []


def _unmade(folder: Path) -> list[str]:
    raise OSError("this is meant to fail")


def inputs() -> Iterator[Input]:
    yield Input("proof", "is refused", _nothing, REFUSED, _refused)
    yield Input("proof", "is read", _nothing, READ, _read)
    for name, (_, act) in SEEN.items():
        make = _unmade if name == "cannot be made" else _nothing
        expected = READ if act is _page else REFUSED
        yield Input("proof", name, make, expected, act)
