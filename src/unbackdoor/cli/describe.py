"""describe: what a method does, where it comes from, and every parameter of it."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer
from rich.table import Table

from ..core.errors import UnknownNameError
from . import options as o
from .console import Console, table


def describe(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="an attack, a defense or a scanner; see list")
    ],
    as_json: o.Json = False,
) -> int:
    """Describe an attack, a defense or a scanner: its paper, its limits and its parameters."""
    with Console(as_json=as_json) as console:
        from ..core import method

        known = {found: role for role in method.ROLES for found in method.names(role)}
        if name not in known:
            raise UnknownNameError.of("method", name, known)
        told = {"role": known[name], **method.declared(method.find(known[name], name))}
        console.result(told, _shown(told) if not as_json else "")
        return 0


TYPE, BOUNDS = 12, 8
"""Widths of columns in characters, at most."""


def _shown(told: dict[str, Any]) -> Table:
    rows = [
        (
            name,
            field["type"],
            str(field["default"]),
            ", ".join(f"{sign} {bound:g}" for sign, bound in field["bounds"].items()),
            field["description"] + (f" ({field['source']})" if field["source"] else ""),
        )
        for name, field in told["parameters"].items()
    ]
    title = (
        f"{told['name']} ({told['role']}): {told['summary']}\n\n"
        f"{_flowing(told['details'])}\n\n"
        f"Paper: {told['paper']}\nLimits: {told['limits']}\n{_needs(told)}"
    )
    shown = table(("parameter", "type", "default", "bounds", "description"), rows, title)
    shown.columns[-1].justify = "left"
    for place, column in enumerate(shown.columns):
        column.no_wrap = place == 0  # a name is never cut
    shown.columns[1].max_width, shown.columns[3].max_width = TYPE, BOUNDS
    shown.title_style = ""
    return shown


def _flowing(text: str) -> str:
    """Each paragraph, and each entry of a list, on one line: the terminal breaks them."""
    return re.sub(r"(?<=\S)\n(?!\n|\* )\s*", " ", text)


def _needs(told: dict[str, Any]) -> str:
    if "needs" not in told:
        return ""
    from ..defenses.base.needs import NEEDS

    needed = [meaning for need, meaning in NEEDS.items() if need in told["needs"]]
    return f"Needs: {'; '.join(needed) or 'the model alone'}\n"
