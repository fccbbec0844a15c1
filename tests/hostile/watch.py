"""Runs the program on inputs, each in a process of its own, and says what went wrong in each.

One parent has imported everything, and forks a child for each input: starting torch takes seconds,
a fork takes milliseconds. What a child does is seen from three sides: Python's audit events inside
it, its memory and time from the parent, and the files before and after.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import checks
from .inputs import CANARY, OUT, Input

SECONDS, WAITED = 60.0, 3
"""What a run may take of a processor; and so many times as long by the clock: others work, too."""
MOST_BYTES = 2 * 2**30
"""Beyond what an idle run takes."""
POLL = 0.02
LIMIT = sys.getrecursionlimit()

PROBLEMS = (
    *("code runs", "tracebacks", "crashes", "hangs", "over memory", "outside", "escapes"),
    "other ends",
)


@dataclass
class Outcome:
    """How one run ended: its exit code (None if it was killed), and what was wrong with it."""

    input: Input
    code: int | None
    seconds: float
    mib: float
    problems: dict[str, str] = field(default_factory=dict)
    said: str = ""


@dataclass
class _Running:
    input: Input
    place: Path
    pid: int
    began: float
    making: bool
    peak: int = 0
    killed: str = ""
    before: dict[str, Any] = field(default_factory=dict)


def prepare() -> None:
    """Imports all that the commands need, once: children inherit it."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import timm  # noqa: F401
    import torch
    import transformers  # noqa: F401

    import unbackdoor.api
    import unbackdoor.bench.grid
    import unbackdoor.bench.plan
    import unbackdoor.bench.run
    import unbackdoor.checkpoints.inspecting
    import unbackdoor.cli.inputs
    import unbackdoor.data.parquet
    import unbackdoor.report.site  # noqa: F401
    from unbackdoor import models

    sys.setrecursionlimit(20_000)  # to see and take away folders that are deep in one another
    torch.set_num_threads(1)
    models.recognize({"a.weight": torch.ones(3)})
    models.recognize_timm({"a.weight": torch.ones(3)})
    gc.collect()
    gc.freeze()  # what is there now is shared with the children for good


def run(
    inputs: Iterable[Input], root: Path, workers: int = 2, until: float | None = None
) -> Iterator[Outcome]:
    """The outcome of each input, in the order in which they end; `root` is an empty folder.

    After the time `until` (of `time.monotonic`) none is begun.
    """
    waiting, running = enumerate(inputs), list[_Running]()
    idle, more = _idle(root), True
    try:
        while running or more:
            while more and len(running) < workers:
                following = (
                    next(waiting, None) if until is None or time.monotonic() < until else None
                )
                more = following is not None
                if following:
                    place = root / str(following[0]) / "a" / "b"
                    for name in ("in", "home", "tmp"):
                        (place / name).mkdir(parents=True)
                    running.append(_started(following[1], place, making=True))
            for one in list(running):
                if not (ended := _ended(one, idle)):
                    continue
                running.remove(one)
                status, usage = ended
                if one.making and status == 0 and not one.killed:
                    running.append(_started(one.input, one.place, making=False))
                    continue
                yield _outcome(one, status, max(one.peak, usage) - idle)
                _removed(one.place.parents[1])
            time.sleep(POLL / 4)
    finally:
        for one in running:
            _kill(one.pid)
            os.waitpid(one.pid, 0)


def _idle(root: Path) -> int:
    """The peak of a run that opens nothing."""
    place = root / "idle"
    (place / "in").mkdir(parents=True)
    (place / "command.json").write_text('["list", "sources"]')
    pid = os.fork()
    if pid == 0:
        _child(Input("", "idle", lambda folder: []), place, making=False)
    return os.wait4(pid, 0)[2].ru_maxrss * 1024


def _started(given: Input, place: Path, *, making: bool) -> _Running:
    before = {} if making else checks.tree(place.parents[1])
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _child(given, place, making)
    return _Running(given, place, pid, time.monotonic(), making, before=before)


def _child(given: Input, place: Path, making: bool) -> None:
    """Never returns: makes the files, or runs the command on them."""
    code = 99
    try:
        os.setsid()
        sys.setrecursionlimit(LIMIT)
        os.chdir(place / "in")
        if making:
            warnings.simplefilter("ignore")
            command = list(given.make(place / "in"))
            (place / "command.json").write_text(json.dumps(command))
            code = 0
        else:
            command = json.loads((place / "command.json").read_text())
            _redirect(place)
            os.environ |= {"HOME": str(place / "home"), "TMPDIR": str(place / "tmp")}
            os.environ["COLUMNS"], tempfile.tempdir = "200", None
            checks.audited(place)
            from unbackdoor.cli import main

            code = given.act() if given.act else main(command)
            sys.stdout.flush()
            sys.stderr.flush()
    except BaseException:  # noqa: BLE001 - what gets here is what the campaign looks for
        if making:
            print(f"{given.name} cannot be made", file=sys.stderr)
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _redirect(place: Path) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for number, name in ((1, "stdout"), (2, "stderr")):
        handle = os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
        os.close(handle)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]


def _ended(one: _Running, idle: int) -> tuple[int, int] | None:
    """(status, peak bytes) of a child that ended; ends one that takes too much first."""
    pid, status, usage = os.wait4(one.pid, os.WNOHANG)
    if pid:
        _kill(one.pid)  # what it may have left behind
        return status, usage.ru_maxrss * 1024
    one.peak = max(one.peak, _resident(one.pid))
    if not one.making and one.peak - idle > MOST_BYTES:
        one.killed = one.killed or "over memory"
    elif _worked(one.pid) > SECONDS or time.monotonic() - one.began > WAITED * SECONDS:
        one.killed = one.killed or "hangs"
    if one.killed:
        _kill(one.pid)
    return None


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


def _worked(pid: int) -> float:
    """Seconds of processor time."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(told[11]) + int(told[12])) / os.sysconf("SC_CLK_TCK")


def _outcome(one: _Running, status: int, above: int) -> Outcome:
    code = os.waitstatus_to_exitcode(status)
    out = Outcome(
        one.input, code if code >= 0 else None, time.monotonic() - one.began, above / 2**20
    )
    if one.making:
        out.problems["other ends"] = "its files could not be made"
        return out
    streams = [checks.text(one.place / name) for name in ("stdout", "stderr")]
    out.said = "".join(streams)
    events = checks.text(one.place / "events").splitlines()
    found = out.problems
    if started := [line for line in events if line.startswith("start ")]:
        found["code runs"] = started[0]
    if list(one.place.parents[1].rglob(CANARY)):
        found["code runs"] = "the canary was touched"
    if one.killed:
        found[one.killed] = f"{out.seconds:.0f} s, {out.mib:.0f} MiB"
    elif code < 0:
        found["crashes"] = signal.Signals(-code).name
    elif above > MOST_BYTES:
        found["over memory"] = f"{out.mib:.0f} MiB"
    if "Traceback (most recent call last)" in out.said or code in (70, 99):
        found["tracebacks"] = out.said.strip()[-300:]
    changed = [line for line in events if line.startswith("change ")]
    after = checks.tree(one.place.parents[1])
    changed += [n for n in one.before.keys() | after.keys() if one.before.get(n) != after.get(n)]
    if changed:
        found["outside"] = "; ".join(changed)[:300]
    if shown := checks.escapes(out.said) or checks.leaks(one.place / "in" / OUT):
        found["escapes"] = shown
    if not found and code not in one.input.expected:
        found["other ends"] = f"exit code {code}: {out.said.strip()[-200:]}"
    elif not found and code == 2 and not checks.one_line(*streams):
        found["other ends"] = f"no single line: {out.said.strip()[-200:]}"
    return out


def _removed(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
