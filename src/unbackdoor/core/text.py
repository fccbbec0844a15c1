"""Text that a stranger may have written, made safe to show: on a terminal, on a page, in a table.

A name in a file can hold what moves a terminal's cursor, what turns the order of letters round,
or half a character that no encoding takes. It is shown as what it is, never done.
"""

from __future__ import annotations

import unicodedata

HIDDEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
"""Unicode's categories of characters that are not seen: controls, marks of direction, surrogates,
private and unassigned ones, separators of lines."""

LONGEST = 2000
"""Characters of a line that a person still reads; what is in the middle of a longer one is lost."""


def printable(text: str, kept: str = "") -> str:
    r"""`text` with every character that is not seen as its escape; `kept` ones stay as they are.

    >>> printable("red \x1b[31m, and \u202eback")
    'red \\x1b[31m, and \\u202eback'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        _escape(letter) if letter not in kept and unicodedata.category(letter) in HIDDEN else letter
        for letter in text
    )


def line(text: str, longest: int = LONGEST) -> str:
    """`text` on one line that can be shown anywhere, cut in its middle where it is too long."""
    if len(text) > 4 * longest:  # before any work on it
        text = _cut(text, 2 * longest)
    return _cut(printable(" ".join(text.split())), longest)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 200]} [...] {text[-190:]}"


def _escape(letter: str) -> str:
    number = ord(letter)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
