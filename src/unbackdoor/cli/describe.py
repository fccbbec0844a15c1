"""describe: what a method does, where it comes from, and every parameter of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ..errors import UnknownNameError
from . import options as o
from .console import Console, table

if TYPE_CHECKING:
    from ..method import Method

BOUNDS = {
    "minimum": ">=",
    "exclusiveMinimum": ">",
    "maximum": "<=",
    "exclusiveMaximum": "<",
}


def describe(
    name: Annotated[str, typer.Argument(metavar="NAME", help="an attack or a defense; see list")],
    as_json: o.Json = False,
) -> int:
    """Describe an attack or a defense: its paper, its limits and its parameters."""
    with Console(as_json=as_json) as console:
        from .. import method

        known = {found: role for role in method.ROLES for found in method.names(role)}
        if name not in known:
            raise UnknownNameError.of("method", name, known)
        told = {"role": known[name], **declared(method.find(known[name], name))}
        console.result(told, _shown(told) if not as_json else "")
        return 0


def declared(cls: type[Method]) -> dict[str, Any]:
    """What the class of a method says of itself, as JSON values."""
    fields = cls.model_json_schema()["properties"]
    return {
        "name": cls.name(),
        "summary": (cls.__doc__ or "").partition("\n")[0],
        "paper": cls.paper,
        "limits": cls.limits,
        "parameters": {
            name: {
                "type": _type(schema),
                "default": schema.get("default"),
                "bounds": {sign: schema[key] for key, sign in BOUNDS.items() if key in schema},
                "description": schema.get("description", ""),
            }
            for name, schema in fields.items()
        },
    }


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "anyOf" in schema:
        return " | ".join(_type(part) for part in schema["anyOf"])
    return str(schema.get("type", "any"))


def _shown(told: dict[str, Any]) -> Table:
    rows = [
        (
            name,
            field["type"],
            str(field["default"]),
            ", ".join(f"{sign} {bound:g}" for sign, bound in field["bounds"].items()),
            field["description"],
        )
        for name, field in told["parameters"].items()
    ]
    title = (
        f"{told['name']} ({told['role']}): {told['summary']}\n\n"
        f"Paper: {told['paper']}\nLimits: {told['limits']}\n"
    )
    shown = table(("parameter", "type", "default", "bounds", "description"), rows, title)
    shown.columns[-1].justify, shown.columns[-1].no_wrap = "left", False
    shown.title_style = ""
    return shown
