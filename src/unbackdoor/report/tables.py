"""The numbers as files that other programs read: CSV, parquet, markdown and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..core.files import whole
from ..core.text import printable
from .card import escaped
from .charts import Heat, heat
from .detection import Detection
from .names import CLEAN
from .rates import SPACE, half
from .results import MEASURES, Row
from .spread import NUMBERS, Group, Spread, groups, leaderboard

FORMULA = ("=", "+", "-", "@")
"""A text that begins so is worked out by a spreadsheet; an apostrophe before it keeps it a text."""

TEX = {
    **{letter: f"\\{letter}" for letter in "&%#_{}$"},
    **{"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "±": r"$\pm$", SPACE: "~"},
}

GROUP_COLUMNS = ("data", "arch", "attack", "rate", "budget", "defense")


def cells_csv(rows: Sequence[Row]) -> str:
    """A line a cell, victims as they are among them: shares of 1, flags with spaces between."""
    names = columns(rows)
    return _csv(names, [[_text(getattr(row, name)) for name in names] for row in rows])


def scans_csv(found: Sequence[Detection]) -> str:
    """A line a scan: the model, what the scanner said, and whether it is above the threshold."""
    header = ["data", "arch", "scanner", "budget", "attack", "seed", "status", "score", "suspect"]
    header += ["target", "weak", "found", "seconds"]
    lines = []
    for one in found:
        for look in one.looks:
            done = look.status == "done"
            told = [*one.place, look.attack, look.seed, look.status]
            told += [look.score, look.suspect] if done else [None, None]
            told += [look.target, str(look.weak).lower(), str(done and one.hit(look)).lower()]
            lines.append([_text(value) for value in (*told, look.seconds if done else None)])
    return _csv(header, lines)


def columns(rows: Sequence[Row]) -> list[str]:
    """The names of a row's numbers; of the measures and the mark of controls those in use."""
    optional = (*MEASURES, "control")
    used = {name for name in optional for row in rows if getattr(row, name) not in (None, False)}
    every = [field.name for field in fields(Row)]
    return [name for name in every if name not in optional or name in used]


def groups_csv(rows: Sequence[Row]) -> str:
    """A line for all seeds of a cell: mean, ends of the 95 % interval and n of every number."""
    header, shown = list(GROUP_COLUMNS), set(columns(rows))
    numbers = [name for name in NUMBERS if name in shown]
    for name in numbers:
        header += [name, f"{name}_low", f"{name}_high", f"{name}_n"]
    header += ["done", "failed", "missing", "flags"]
    lines = []
    for group in groups(rows):
        line = [_text(getattr(group.first, name)) for name in GROUP_COLUMNS]
        for name in numbers:
            line += _spread(getattr(group, name))
        line += [str(group.count(status)) for status in ("done", "failed", "missing")]
        lines.append([*line, " ".join(group.flags)])
    return _csv(header, lines)


def write_parquet(rows: Sequence[Row], path: Path) -> bool:
    """Writes what `cells_csv` tells; False where pyarrow (extra `data`) is not installed."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        return False
    names = columns(rows)
    told: list[dict[str, Any]] = [
        {**{name: getattr(row, name) for name in names}, "flags": list(row.flags)} for row in rows
    ]
    with whole(path, lasting=False) as half:
        pq.write_table(pa.Table.from_pylist(told), half)
    return True


def markdown(rows: Sequence[Row]) -> str:
    """A table of one data set: defenses down, attacks across, ACC / ASR / RA in percent.

    The numbers of a repair that was undone are the victim's: they are marked.
    """
    found = _heat(rows)
    header = ["", *(_name(found, at) for at in range(len(found.columns)))]
    lines = [header, ["---"] * len(header)]
    for name, row in found.rows:
        lines.append([name, *(_triple(group, " / ", "±") for group in row)])
    return "\n".join(f"| {' | '.join(_md(part) for part in line)} |" for line in lines) + "\n"


def latex(rows: Sequence[Row]) -> str:
    """The same as a LaTeX tabular (booktabs)."""
    found = _heat(rows)
    header = ["Defense", *(_name(found, at) for at in range(len(found.columns)))]
    lines = [
        header,
        *([name, *(_triple(g, " / ", "±") for g in row)] for name, row in found.rows),
    ]
    texts = [" & ".join(_tex(part) for part in line) + r" \\" for line in lines]
    return "\n".join(
        (
            r"\begin{tabular}{l" + "c" * len(found.columns) + "}",
            r"\toprule",
            texts[0],
            r"\midrule",
            *texts[1:],
            r"\bottomrule",
            r"\end{tabular}",
            "",
        )
    )


def _heat(rows: Sequence[Row]) -> Heat:
    """What a table shows: every attack, or the clean models where nothing was attacked."""
    order = [line.defense for line in leaderboard(rows)]
    shown = groups([row for row in rows if row.attacked] or rows)
    return heat(shown, [*order[-1:], *order[:-1]] if order[-1:] == ["none"] else order)


def _name(found: Heat, at: int) -> str:
    column = found.columns[at]
    name = (
        column.attack if column.first.attacked else column.attack.replace(CLEAN, "clean model", 1)
    )
    return name + (f" ({column.rest})" if column.rest else "")


def _triple(group: Group | None, between: str, sign: str) -> str:
    if group is None:
        return ""
    if not group.n:
        return "failed" if group.count("failed") else "missing"
    found = (group.acc, group.asr, group.ra)
    told = ", ".join(part for part in (f"n={group.n}", group.undone) if part)
    return between.join(_mean(part, sign) for part in found) + f" ({told})"


def _mean(found: Spread | None, sign: str) -> str:
    if found is None:
        return "-"
    ends = f" {sign} {half(found.half)}" if found.half is not None else ""
    return f"{100 * found.mean:.1f}{ends}"


def _md(text: str) -> str:
    return text if set(text) <= {"-"} else escaped(text)


def _tex(text: str) -> str:
    return "".join(TEX.get(letter, letter) for letter in printable(text))


def _spread(found: Spread | None) -> list[str]:
    if found is None:
        return ["", "", "", "0"]
    ends = [""] * 2
    if found.half is not None:
        ends = [f"{found.mean - found.half:.6g}", f"{found.mean + found.half:.6g}"]
    return [f"{found.mean:.6g}", *ends, str(found.n)]


def _text(value: Any) -> str:
    if value is None or isinstance(value, int | float):
        return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    text = printable(" ".join(value) if isinstance(value, tuple) else str(value))
    return f"'{text}" if text.startswith(FORMULA) else text


def _csv(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    table.writerows((header, *lines))
    return file.getvalue()
