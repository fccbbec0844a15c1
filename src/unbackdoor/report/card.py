"""The model card that goes with a repaired checkpoint: markdown, drawn from the record."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..core.text import printable
from .page import measures
from .templating import NUMBERS
from .words import limits, verdict


class Markdown(str):
    """Text that is markdown already."""


def model_card(record: Mapping[str, Any]) -> str:
    """The markdown text of the model card of a repaired model; text from files is escaped."""
    return (
        _environment()
        .get_template("model_card.md.j2")
        .render(
            record=record,
            verdict=verdict(record),
            measures=measures(record),
            limits=limits(record),
            silenced=sum(len(layer["silenced"]) for layer in record["layers"]),
            channels=sum(layer["channels"] for layer in record["layers"]),
        )
    )


def escaped(value: object) -> str:
    """`value` as markdown that shows it as it is, on one line, never as markup or HTML."""
    if isinstance(value, Markdown):
        return value
    line = re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", printable(" ".join(str(value).split())))
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # An address that is not a link yet becomes one by itself.
    return line.replace("://", "&#58;//").replace("www.", "www&#46;").replace("@", "&#64;")


def fenced(text: str) -> Markdown:
    """`text` as a block of code, whatever it holds."""
    text = printable(text, kept="\n")
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
    return Markdown(f"{fence}sh\n{text}\n{fence}")


@cache
def _environment() -> Environment:
    environment = Environment(  # markdown, so not HTML's escaping: `escaped` sees every value
        loader=PackageLoader("unbackdoor.report"),
        autoescape=False,
        finalize=escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= NUMBERS | {"fenced": fenced}
    return environment
