"""What a scanner says of a victim: its score and the class that stands out, and no verdict.

A scanner gets the model and the clean images of its budget, as a defense does. Scores are compared
with those of the clean models of the same grid, not with a calibration: reports do that.
"""

from __future__ import annotations

import time

from torch import nn

from ..core import method, record
from ..core.images import Images
from ..core.run import Run
from ..scanners.base.scanner import Scanner
from .cell import Scan
from .store import Record


def looked(wanted: Scan, model: nn.Module, clean: Images, run: Run) -> Record:
    """The part of a scan's result that its scanner tells."""
    table = dict(wanted.defense)
    scanner = method.build("scanner", table.pop("name"), table)
    assert isinstance(scanner, Scanner)
    start = time.perf_counter()
    found = scanner.scan(model, clean, run)
    spent = time.perf_counter() - start
    return {
        "scanner": record.of_method(scanner),
        "score": found.score,
        "suspect": found.suspect,
        "classes": [round(value, 6) for value in found.classes.tolist()],
        "flags": [],
        "images": {"clean": int(found.notes["images"])},
        "notes": {name: note for name, note in found.notes.items() if name != "seconds"},
        "spent": {"scan": spent},
    }
