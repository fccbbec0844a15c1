"""The entries of a grid: tables whose lists multiply, and names that tell them apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Any

from ..core.errors import ParameterError
from .cell import Table

MOST_TABLES = 1_000
"""Of one kind in a grid, when its lists are multiplied."""


def tables(where: str, entries: Sequence[Any]) -> Iterator[Table]:
    """The entries as tables that hold no list: a text is a name, and every list multiplies."""
    count = 0
    for entry in entries:
        table = {"name": entry} if isinstance(entry, str) else entry
        if not isinstance(table, dict) or not isinstance(table.get("name"), str):
            raise ParameterError(f"{where} wants names or tables with a name, got {entry!r}")
        keys = list(table)
        lists = [value if isinstance(value, list) else [value] for value in table.values()]
        count += math.prod(map(len, lists))
        if count > MOST_TABLES:
            raise ParameterError(f"{where}: its lists multiply to more than {MOST_TABLES:,} tables")
        if not all(lists):
            raise ParameterError(f"{where}: {table['name']} has an empty list, so no cells")
        for values in product(*lists):
            yield dict(zip(keys, values, strict=True))


def labelled(tables: Iterable[Table], *apart: str) -> Iterator[tuple[str, Table]]:
    """Each table after its name and what tells it from others of that name: `badnets size=4`.

    What is told `apart` is left out; a count never is.
    """
    every = list(tables)
    for table in every:
        others = [other for other in every if other["name"] == table["name"]]
        told = (
            f" {key}={value}"
            for key, value in table.items()
            if key == "count" or (key not in apart and any(o.get(key) != value for o in others))
        )
        yield table["name"] + "".join(told), table
