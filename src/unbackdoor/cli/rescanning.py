"""What `repair --scan` does: one scanner looks at the model before and after its repair."""

from __future__ import annotations

from typing import Any

from ..core.errors import UnbackdoorError
from ..core.images import Images
from ..core.method import build
from ..core.run import Run
from ..models import Normalized
from ..scanners.base.calibration import shipped
from ..scanners.base.scanner import Scanner
from ..scanners.base.verdict import Outcome, Verdict, judged, usual
from .scanning import Scanned, brief, in_short

MINUTES = 10.0
"""Each of the two scans may take so long."""


def twice(before: Normalized, after: Normalized, clean: Images, run: Run) -> dict[str, Any]:
    """What a scan says of a model before and after its repair, for the record.

    The clean models that both are compared with were not repaired. What the scanner cannot handle
    is not judged.
    """
    scanner = build("scanner", usual(before, shipped()))
    assert isinstance(scanner, Scanner)
    both = {}
    for when, model in (("before", before), ("after", after)):
        try:
            verdict = judged(scanner, model, clean, run, shipped(), MINUTES)
        except UnbackdoorError as error:  # the repair is done: it shall not be lost for this
            verdict = Verdict(Outcome.not_judged, str(error))
        both[when] = Scanned(model, clean, scanner, verdict)
    return {
        "scanner": scanner.name(),
        "lines": {when: brief(one) for when, one in both.items()},
        **{when: in_short(one) for when, one in both.items()},
    }
