"""Everything a person can cause, as one tree of exceptions: one clear line and exit code 2.

ValueError
└── UnbackdoorError
    ├── UnknownNameError      no such method, source, architecture or field; names the nearest
    ├── ParameterError        a value out of its bounds, or of the wrong kind
    ├── ImagesError           images that cannot be read or do not fit
    ├── CheckpointError       a model file that cannot be read or does not fit
    │   └── RefusedFileError  a file that would have run code
    ├── ModelError            a network that a method cannot handle
    └── OutputError           a place that cannot be written to
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UnbackdoorError(ValueError):
    """Something a person can cause and cure; its text is the one line they need."""


class UnknownNameError(UnbackdoorError):
    """A name that stands for nothing here."""

    @classmethod
    def of(cls, kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
        """The error for an unknown `kind` called `name`, with the nearest of the `known` names."""
        names = sorted(known)
        near = get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
        return cls(f"unknown {kind} {name!r}; {hint}")


class ParameterError(UnbackdoorError):
    """A value out of its bounds, or of the wrong kind."""


class ImagesError(UnbackdoorError):
    """Images that cannot be read or do not fit."""


class CheckpointError(UnbackdoorError):
    """A model file that cannot be read or does not fit."""


class RefusedFileError(CheckpointError):
    """A file that would have run code on being opened. It was not run."""


class ModelError(UnbackdoorError):
    """A network that a method cannot handle."""


class OutputError(UnbackdoorError):
    """A place that cannot be written to."""


class UnbackdoorWarning(UserWarning):
    """Something a person should know, said once; the command line shows it on stderr."""


SHOWN = 5


def listed(names: Iterable[str]) -> str:
    """`names` with commas, the first few of them if they are many."""
    every = list(names)
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more
