"""What is looked at in each run: what it starts, what it changes, and what it shows."""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from pathlib import Path
from typing import Any

from .inputs import OUT, RAW, TAGS

# What Python tells of before it happens, and what none of our commands needs.
STARTS = re.compile(
    r"os\.(system|exec|posix_spawn|spawn|fork|forkpty|startfile)|subprocess\.|pty\.|webbrowser\."
    r"|socket\.(connect|getaddrinfo|gethostby|bind)|ctypes\.dlopen|pickle\.find_class"
)
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod")


def audited(place: Path) -> None:
    """From now on this process notes what it starts, and what it changes outside of `OUT`."""
    allowed = (os.path.realpath(place / "in" / OUT) + "/", "/dev/null")
    log = os.open(place / "events", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    busy = False

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal busy
        if busy:
            return
        busy = True
        try:
            if STARTS.match(event) and not _ours(event, arguments):
                os.write(log, f"start {event} {arguments!r:.200}\n".encode("utf-8", "replace"))
            elif (event == "open" and _writes(arguments)) or event in CHANGES:
                target = arguments[0]
                if isinstance(target, str | bytes | os.PathLike):
                    real = os.path.realpath(os.fsdecode(target))
                    if not f"{real}/".startswith(allowed[0]) and real != allowed[1]:
                        os.write(log, f"change {event} {real}\n".encode("utf-8", "replace"))
        finally:
            busy = False

    sys.addaudithook(note)


def _ours(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether it is torch that looks for the system's own libraries, by their bare names."""
    name = arguments[0] if event == "ctypes.dlopen" else ""
    return name is None or (isinstance(name, str) and re.fullmatch(r"lib[\w.-]+", name) is not None)


def _writes(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND))


def one_line(stdout: str, stderr: str) -> bool:
    """Whether there is just one line that says what is wrong; warnings may stand before it."""
    lines = [line for line in stderr.splitlines() if not line.startswith("warning: ")]
    told = [line for line in stdout.splitlines() if line.startswith("error: ")]
    return len(lines) + len(told) == 1 and all(line.startswith("error: ") for line in lines)


def escapes(text: str) -> str:
    for letter in text:
        if letter != "\n" and unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp"):
            return f"{letter!r} on the terminal"
    return ""


def leaks(out: Path) -> str:
    """What stands unescaped in pages and tables that were written."""
    for path in sorted(out.rglob("*")) if out.is_dir() else ():
        if path.suffix in (".html", ".md", ".svg"):
            page = text(path)
            for raw in RAW if path.suffix == ".html" else TAGS:
                if raw in page:
                    return f"{raw} in {path.name}"
        elif path.suffix == ".csv" and re.search(r'(?m)(^|,)"?[=@+]', text(path)):
            return f"a formula in {path.name}"
    return ""


def text(path: Path) -> str:
    try:
        return path.read_bytes()[: 2**24].decode("utf-8", "replace")
    except OSError:
        return ""


def tree(top: Path) -> dict[str, Any]:
    """Every file below `top` but what a run may write; as much of each as tells a change."""
    found: dict[str, Any] = {}
    for place, folders, files in os.walk(top):
        here = Path(place)
        if here == top / "a" / "b":
            files = [name for name in files if name not in ("stdout", "stderr", "events")]
        if here == top / "a" / "b" / "in" and OUT in folders:
            folders.remove(OUT)
        for name in (*files, *folders):
            told = (here / name).lstat()
            when = told.st_mtime_ns if name in files else 0
            found[os.fspath((here / name).relative_to(top))] = (
                told.st_mode,
                told.st_size * bool(when),
                when,
            )
    return found
