"""What a person sees: progress, log lines and warnings on stderr, the result on stdout."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any, Self

from rich import box
from rich.console import Console as Screen
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ..core.errors import UnbackdoorWarning
from ..core.text import line, printable

EVERY = 5.0
"""Seconds that pass at least between two plain lines of progress."""


class Console:
    """Where a verb says what it does; a context, inside which warnings become lines on stderr.

    `warned` fills with the text of the warnings, each once.
    """

    def __init__(
        self, *, as_json: bool = False, quiet: bool = False, verbose: bool = False
    ) -> None:
        self.as_json, self.quiet, self.verbose = as_json, quiet, verbose
        self.warned: list[str] = []
        self._screen = Screen(stderr=True, highlight=False, emoji=False, soft_wrap=True)
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._parts: dict[str, str] = {}
        self._began: dict[str, tuple[float, int]] = {}
        self._told: dict[str, float] = {}
        self._inside = ExitStack()

    def __enter__(self) -> Self:
        self._inside.enter_context(warnings.catch_warnings())
        warnings.simplefilter("always", UnbackdoorWarning)
        warnings.showwarning = self._show
        if self._screen.is_terminal and not self.quiet:
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %"),
                TimeRemainingColumn(compact=True),
                console=self._screen,
                transient=True,
            )
            self._inside.enter_context(self._bars)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._inside.close()

    def hold(self, context: AbstractContextManager[object]) -> None:
        """Enters a context that ends with the command."""
        self._inside.enter_context(context)

    def say(self, text: str) -> None:
        """A line of the log, on stderr."""
        if not self.quiet:
            self._line(text)

    def complain(self, text: str) -> None:
        """A bound that was missed, on stderr."""
        self._line(f"missed: {text}")

    def detail(self, text: str) -> None:
        """A line of the log that only `-v` asks for."""
        if self.verbose:
            self.say(text)

    def result(self, record: Mapping[str, Any] | Sequence[Any], shown: Table | str) -> None:
        """The result, on stdout: `shown` for a person, the `record` for a machine."""
        if self.as_json:
            print(json.dumps(record, indent=1))
        elif isinstance(shown, str):
            print(printable(shown, kept="\n"))
        else:
            Screen(highlight=False, emoji=False).print(shown)

    def shown(self, table: Table) -> None:
        """A table that was asked for beside the result, on stderr."""
        self._screen.print(table)

    def part(self, stage: str, name: str) -> None:
        """Takes the part of a stage that a `Run` begins."""
        self._parts[stage] = name

    def progress(self, stage: str, done: int, total: int) -> None:
        """Takes what a `Run` tells of its progress."""
        now = time.perf_counter()
        if done == 0 or stage not in self._began:
            self._began[stage], self._told[stage] = (now, done), now
            if 0 < done <= total:
                self.say(f"{stage}: {100 * done // total} % were done before")
        if self.quiet or not total:
            return
        if self._bars is None:
            self._plain(stage, done, total, now)
        else:
            self._bar(self._bars, stage, done, total)
        if done >= total:
            del self._began[stage]
            self._parts.pop(stage, None)

    def _bar(self, bars: Progress, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = bars.add_task(stage, total=total, completed=done)
        bars.update(self._tasks[stage], description=self._named(stage), completed=done, total=total)
        if done >= total:
            bars.remove_task(self._tasks.pop(stage))

    def _plain(self, stage: str, done: int, total: int, now: float) -> None:
        began, known = self._began[stage]
        spent = now - began
        if done >= total and spent >= 1:
            self._line(f"{stage}: done in {spent:.0f} s")
        elif known < done < total and now - self._told[stage] >= max(EVERY, spent / 2):
            self._told[stage] = now
            left = spent / (done - known) * (total - done)
            self._line(f"{self._named(stage)}: {100 * done // total} %, about {left:.0f} s left")

    def _named(self, stage: str) -> str:
        return f"{stage} {self._parts[stage]}" if stage in self._parts else stage

    def _line(self, text: str) -> None:
        self._screen.print(line(text), markup=False)

    def _show(self, message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        text = line(str(message))
        if issubclass(category, UnbackdoorWarning):
            if text not in self.warned:
                self.warned.append(text)
                self._line(f"warning: {text}")
        elif self.verbose:
            self._line(f"{category.__name__}: {text}")


def table(
    headings: Iterable[str], rows: Iterable[Sequence[str]], title: str | None = None
) -> Table:
    """A plain table for stdout; the first column is text, the others are numbers."""
    named = None if title is None else _text(title)
    shown = Table(box=box.SIMPLE_HEAD, title=named, title_justify="left", pad_edge=False)
    for place, heading in enumerate(headings):
        shown.add_column(
            _text(heading), justify="left" if place == 0 else "right", no_wrap=place > 0
        )
    for row in rows:
        shown.add_row(*map(_text, row))
    return shown


def _text(text: str) -> Text:
    """`text` as it is: neither rich's markup nor the terminal's escapes are done."""
    return Text(printable(text, kept="\n"))
