"""The templates' environment, and the words that they write numbers with."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..core.text import printable
from . import pictures, rates


def breakable(name: str) -> Markup:
    """A layer's name that may be broken after each of its dots."""
    return Markup(".<wbr>").join(printable(name).split("."))


def code(text: str) -> Markup:
    """A text whose parts between backticks are code."""
    parts = printable(text).split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else part
        for place, part in enumerate(parts)
    )


NUMBERS = {
    "percent": rates.percent,
    "interval": rates.interval,
    "points": rates.points,
    "count": rates.count,
    "budget": rates.budget,
    "short": rates.short,
    "literal": rates.literal,
}
"""How every template, of pages and of cards, writes its values."""


def seen(value: object) -> object:
    """A text whose letters are all seen; other values and what is HTML already as they are."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value, kept="\n\t")
    return value


@cache
def html() -> Environment:
    """The environment of pages: everything is escaped, nothing may be undefined."""
    environment = Environment(
        loader=PackageLoader("unbackdoor.report"),
        autoescape=True,
        finalize=seen,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= NUMBERS | {
        "duration": rates.duration,
        "hundred": rates.hundred,
        "half": rates.half,
        "code": code,
        "ranges": pictures.ranges,
        "breakable": breakable,
    }
    return environment
