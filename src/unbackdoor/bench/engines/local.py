"""The engine of one process: one cell after another, each on all cores that it may use."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from ...core.run import Progress
from ..cell import Cell
from ..run import Bench
from . import PATIENCE, Tell


def work(bench: Bench, cells: Sequence[Cell], tell: Tell, progress: Progress) -> None:
    """Works out the `cells` that no other run works on, and waits for the results of the others."""
    left = list(cells)
    with threads(bench.threads):
        while left:
            waiting = []
            for cell in left:
                record, ours = bench.cell(cell, progress)
                if record is None:
                    waiting.append(cell)
                else:
                    tell(cell, record, ours)
            if len(waiting) == len(left):
                time.sleep(PATIENCE)
            left = waiting


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Inside, torch uses `count` threads; as many as before where it is None."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
