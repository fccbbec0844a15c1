"""What stands for the parts of a pickle that only code could make: labels that do nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MOST_KEY_PARTS = 8
_SCALARS = (str, bytes, float, bool, type(None))
_FIRST, _LAST = -(2**63), 2**64 - 1


@dataclass(frozen=True)
class Global:
    """A name that a pickle wanted imported: `module.name`. It was not."""

    name: str


@dataclass(eq=False)
class Foreign:
    """An object that only code could make: what it was to be made of, inert.

    `state` is what its class would have been given, `items` and `pairs` what a list or a dict
    would have been filled with.
    """

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    items: list[Any] = field(default_factory=list)
    pairs: dict[Any, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Foreign({self.name[:80]!r})"


def key(value: Any) -> Any:
    """`value` as a key of a dict: itself where hashing it is cheap and sure, else a stand-in."""
    if _cheap(value):
        return value
    # Python's hash of a tuple of numbers has no secret: a file could make 100,000 of one hash.
    if type(value) is tuple and len(value) <= MOST_KEY_PARTS and all(map(_secret, value)):
        return value
    if isinstance(value, Global | Foreign):
        return Foreign(value.name)
    return Foreign("key")


def _cheap(value: Any) -> bool:
    if type(value) is int:
        return _FIRST <= value <= _LAST
    return type(value) in _SCALARS or _is_number(value)


def _secret(value: Any) -> bool:
    return type(value) in (str, bytes, bool, type(None))


def _is_number(value: Any) -> bool:
    return type(value).__module__ == "numpy" and getattr(value, "shape", None) == ()
