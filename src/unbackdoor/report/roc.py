"""The ROC curves of a bench's scanners, as panels."""

from __future__ import annotations

from collections.abc import Sequence

from .charts import Curves, Line, Tick
from .detection import Detection


def curves(found: Sequence[Detection]) -> Curves | None:
    """The ROC curves; None where no scanner saw clean and backdoored models."""
    lines = []
    for one in found:
        if one.auc is None:
            continue
        path = " ".join(f"{100 * x:g},{100 * (1 - y):g}" for x, y in one.roc)
        name = ", ".join((one.place[2], *one.place[:2]))
        lines.append(Line(name, path, "", f"{one.auc:.2f}", f"ROC curve, AUC {one.auc:.2f}"))
    return Curves(lines, [Tick(part / 2, f"{50 * part} %") for part in range(3)]) if lines else None
