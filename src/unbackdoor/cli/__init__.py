"""The command line: one file a verb, and the only place that prints.

Exit codes: 0 done; 1 done, but a bound that the user set was missed, or a scan found something
suspicious; 2 bad input or usage; 3 a scan that judged nothing; 70 a fault of ours; 130 interrupted.
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import Annotated, cast

import typer

from ..core.errors import UnbackdoorError
from ..core.text import line
from ..core.version import __version__
from . import (
    attack,
    bench,
    convert,
    demo,
    describe,
    evaluate,
    inspect,
    listing,
    poison,
    repair,
    report,
    scan,
)

FAULT = 70
INTERRUPTED = 130
UNREAD = 141
"""What a shell says of a program whose output nobody read to its end."""

app = typer.Typer(
    help="Take backdoors out of trained image classifiers, and measure fairly what works.",
    epilog="Exit codes: 0 done; 1 done, but a bound that you set was missed, or scan found "
    "something suspicious; 2 bad input or usage; 3 scan judged nothing; 70 a fault of ours.",
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)


def _version(asked: bool) -> None:
    if asked:
        print(f"unbackdoor {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


app.command("demo")(demo.demo)
app.command("repair")(repair.repair)
app.command("scan")(scan.scan)
app.command("evaluate")(evaluate.evaluate)
app.command("attack")(attack.attack)
app.command("poison")(poison.poison)
app.command("bench")(bench.bench)
app.command("report")(report.report)
app.command("list")(listing.listing)
app.command("describe")(describe.describe)
app.command("convert")(convert.convert)
app.command("inspect")(inspect.inspect)

# What typer raises for wrong usage; it has no public name of its own in every version.
_UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[1])


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of the command `argv` (that of the process if None).

    What a person can cause ends in one line on stderr, never in a traceback.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        code = app(
            given,
            prog_name="unbackdoor",
            standalone_mode=False,
            obj=shlex.join(["unbackdoor", *given]),
        )
    except BrokenPipeError:
        return _unread()
    except (UnbackdoorError, OSError) as error:
        return _refused(str(error))
    except _UsageError as error:
        message = error.format_message()
        return _refused(message) if message else 2
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except SystemExit as error:
        if "_UNBACKDOOR_COMPLETE" in os.environ:  # a shell asked what may come next, and knows it
            raise
        # rich ends so where it finds nobody to write to
        return _unread() if isinstance(error.__context__, BrokenPipeError) else _fault(error)
    except Exception as error:  # noqa: BLE001 - the last catch: a fault of ours
        return _fault(error)
    if code == INTERRUPTED:
        print("interrupted", file=sys.stderr)
    return int(code or 0)


def _unread() -> int:
    """Whoever read the output has left, as `head` does: no fault, and nobody to tell."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return UNREAD


def _fault(error: BaseException) -> int:
    """What a person is told of a fault of ours; the traceback goes to a file, not to them."""
    text = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="unbackdoor-", suffix=".txt", delete=False, errors="backslashreplace"
        ) as file:
            file.write(f"unbackdoor {__version__}, Python {sys.version}\n{text}")
        where = f"; the details are in {file.name}"
    except OSError:
        where = ""
    reason = line(f"{type(error).__name__}: {error}", 200)
    print(
        f"error: a fault of unbackdoor {__version__}, not of yours ({reason}). "
        f"Please report it{where}",
        file=sys.stderr,
    )
    return FAULT


def _refused(message: str) -> int:
    print("error:", line(message), file=sys.stderr)
    return 2
