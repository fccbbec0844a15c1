"""Engines: what does the cells of a bench, in which order and on which machines.

An engine calls `tell` with a cell and its result for every cell that got one while it worked.
Results do not depend on it: every random draw comes from the cell.
"""

from __future__ import annotations

from collections.abc import Callable

from ..cell import Cell
from ..store import Record

Tell = Callable[[Cell, Record, bool], None]
"""Called with (cell, its result, whether this run worked it out)."""
PATIENCE = 0.5
"""Seconds between two looks at what another run is working on."""
