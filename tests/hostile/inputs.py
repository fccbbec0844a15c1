"""What an input is: how its files are made, the command that reads them, and how it may end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

REFUSED, READ, EITHER = frozenset({2}), frozenset({0}), frozenset({0, 2})
"""Exit codes: the file is refused with one line, or read without harm, or it is all the same."""

OUT = "out"
"""The folder that commands write to, below the current one; nothing may change beside it."""

INSPECT = ["inspect", "a.pt"]
CONVERT = ["convert", "a.pt", "out/m.safetensors", "--arch", "badnet_cnn"]
EVALUATE = ["evaluate", "m.safetensors", "--test"]
"""The second is much quicker: nothing is recognised."""

CANARY = "canary"
"""The file that every piece of code in an input tries to make."""


@dataclass(frozen=True)
class Input:
    """One thing that a stranger might send.

    `make` writes its files into an empty folder and gives the command line that reads them, which
    runs in that folder. `act` is done instead of the program: only the tests of `watch` use it.
    """

    reader: str
    name: str
    make: Callable[[Path], Sequence[str]]
    expected: frozenset[int] = REFUSED
    act: Callable[[], int] | None = None


HTML = "<img src=x onerror=hostile()>"
SCRIPT = "</script><script>hostile()</script>"
FORMULA = "=cmd|' /C calc'!A0"

TEXTS = {
    "html": HTML,
    "script": SCRIPT,
    "attribute": '" onmouseover="hostile()" x="',
    "address": "javascript:hostile()",
    "formula": FORMULA,
    "formula with at": '@SUM(1+1)*cmd|"/C calc"!A0',
    "escapes": "\x1b[31mred\x1b]0;title\x07\x1b[2J",
    "one-byte escapes": "\x9b31mred\x9d0;title\x9c",
    "right to left": "\u202egnp.exe\u2066",
    "carriage return": "good\rerror: bad\b\b\b",
    "lines": "one\ntwo\r\nthree\u2028four",
    "null": "a\0b",
    "half a character": "a\ud800b",
    "latex": "\\input{/etc/passwd}\\write18{touch canary}",
    "markdown": "[x](javascript:hostile()) | a | ![y](http://127.0.0.1:9/z)",
    "template": "{{ 7 * 7 }}{% import os %}",
    "markup of rich": "[red]text[/red][link=http://127.0.0.1:9]x[/link]",
    "path": "../../stolen",
    "absolute path": "/tmp/stolen-by-a-hostile-input",
    "percent": "%s%n%(x)s{0.__class__}$HOME`touch canary`",
    "long": "x" * 300_000,
    "marks": "e" + "\u0301" * 5_000,
}
"""Texts that do something where they are shown or used unescaped."""

TAGS = (HTML, "<script>hostile")
RAW = (*TAGS, 'onmouseover="hostile', 'href="javascript:')
"""What must not stand as it is in a text that browsers show, and in a page."""

DIGITS = "9" * 5_000
"""A number that Python refuses to turn into an int, or an int into text."""


def written(path: Path, data: bytes | str) -> Path:
    """`path`, which holds `data` now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogatepass")
    path.write_bytes(data)
    return path


def sparse(path: Path, size: int, start: bytes = b"", end: bytes = b"") -> Path:
    """A file of `size` bytes that takes no room on the disk."""
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size - len(end))
        file.seek(0, 2)
        file.write(end)
    return path
