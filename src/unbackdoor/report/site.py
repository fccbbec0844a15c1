"""A site of static pages from the results of a bench: offline, without torch, in one folder."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Template
from markupsafe import Markup

from ..bench.flags import FLAGS
from ..bench.store import Record
from ..core.errors import ParameterError
from ..core.files import inside, write_whole
from ..core.foreign import told_as
from ..core.version import __version__
from . import charts, detection, planted, roc, summary, tables
from .board import Board, plain
from .cellpage import cell_context
from .names import CLEAN
from .results import Results, Row
from .spread import FEW
from .templating import html

HEIGHT = 380
"""Pixels of a scatter plot."""
RUN = ("device", "precision", "threads", "machine", "unbackdoor", "versions")
"""What many cells have in common about how they were run."""


def write(results: Results, site: Path) -> list[str]:
    """Writes the pages and tables into `site`; the names of what a reader should open.

    Raises `OutputError` where that is impossible.
    """
    with told_as(ParameterError, "the results cannot be drawn"):
        return _Site(results, site).write()


class _Site:
    def __init__(self, results: Results, folder: Path) -> None:
        self.results, self.folder = results, folder
        self.facts: dict[str, Markup] = {}
        parts = groupby(results.rows, key=lambda row: row.data)
        self.boards = [Board(data, list(rows)) for data, rows in parts]
        self.examples = {name: _first_examples(record) for name, record in results.victims.items()}

    def write(self) -> list[str]:
        self._text("assets/style.css", self._page("style.css.j2") + self._page("site.css.j2"))
        self._text("assets/bench.js", self._page("bench.js"))
        self._pictures()
        written = self._tables()
        cells = [row for board in self.boards for row in board.cells]
        means = [group for board in self.boards for group in board.groups]
        flagged = Counter(flag for row in cells for flag in row.flags)
        flagged[FEW] = sum(FEW in group.flags for group in means)
        for board in self.boards:
            self._html(f"{_slug(board.data)}.html", "site/board.html.j2", **self._board(board))
        self._methods()
        self._cells()
        if self.results.detections:
            self._html("scanners.html", "site/scanners.html.j2", **self._scanners())
        # Last: whoever is stopped leaves no index whose links lead nowhere.
        self._html(
            "index.html",
            "site/index.html.j2",
            boards=self.boards,
            tables=written,
            cells=cells,
            flagged=flagged,
            few=FEW,
            measured=any(board.measures for board in self.boards),
            controls=any(row.control for row in cells),
        )
        return ["index.html", *written]

    def _page(self, template: str, **context: Any) -> str:
        return html().get_template(template).render(**context)

    def _html(self, name: str, template: str, **context: Any) -> None:
        shared = {
            "root": "../" * name.count("/"),
            "version": __version__,
            "flags": FLAGS,
            "slug": _slug,
            "plain": plain,
            "results": self.results,
            "known": self._known,
        }
        self._text(name, self._page(template, **shared, **context))

    def _known(self, role: str, label: str) -> str | None:
        """The page of the method that a label names."""
        name = label.split(" ")[0]
        return f"methods/{role}-{name}.html" if name in self.results.methods[role] else None

    def _board(self, board: Board) -> dict[str, Any]:
        standings = board.standings
        defended = [line for line in standings if line.defense != CLEAN]
        return {
            "board": board,
            "scatter": charts.accuracy_against_success(standings, HEIGHT),
            "times": charts.success_against_time(defended, HEIGHT),
            "curves": {
                name: charts.along(board.groups, name, [line.defense for line in standings])
                for name in ("rate", "budget")
            },
            "height": HEIGHT,
            "looks": self._looks(board),
            "machines": self._machines(board),
        }

    def _scanners(self) -> dict[str, Any]:
        found = self.results.detections
        head, *lines = detection.table(found)
        return {"titles": head, "lines": lines, "curves": roc.curves(found), "found": found}

    def _looks(self, board: Board) -> list[tuple[str, str, Sequence[Mapping[str, Any]]]]:
        """(attack, victim, examples) of one victim of each attack."""
        found: dict[str, tuple[str, str, Sequence[Mapping[str, Any]]]] = {}
        for row in board.rows:
            shown = self.examples.get(row.id)
            if row.defense == CLEAN and row.attacked and shown:
                found.setdefault(row.attack, (row.attack, row.id, shown[:2]))
        return list(found.values())

    def _machines(self, board: Board) -> list[str]:
        told = [self.results.cells[row.id] for row in board.cells if row.id in self.results.cells]
        found = {
            f"{record['machine']['cpu']}, {record['device']}, {record['precision']}, threads a "
            f"cell: {record['threads']}; unbackdoor {record['unbackdoor']}, "
            f"torch {record['versions'].get('torch', '?')}": None
            for record in told
        }
        return list(found)

    def _pictures(self) -> None:
        for name, examples in self.examples.items():
            record = self.results.victims[name]
            for place, _ in enumerate(examples):
                for kind, png in record["examples"][place]["png"].items():
                    self._bytes(f"pictures/{name}-{place}-{kind}.png", base64.b64decode(png))

    def _tables(self) -> list[str]:
        rows = self.results.rows
        self._text("tables/cells.csv", tables.cells_csv(rows))
        self._text("tables/groups.csv", tables.groups_csv(rows))
        written = ["tables/cells.csv", "tables/groups.csv"]
        if tables.write_parquet(rows, inside(self.folder, "tables/cells.parquet")):
            written.append("tables/cells.parquet")
        for board in self.boards:
            name = f"tables/{_slug(board.data)}"
            self._text(f"{name}.md", tables.markdown(board.rows))
            self._text(f"{name}.tex", tables.latex(board.rows))
            written += [f"{name}.md", f"{name}.tex"]
        if text := summary.markdown(self.results):
            self._text("tables/summary.md", text)
            written.append("tables/summary.md")
        if text := detection.markdown(self.results.detections):
            self._text("tables/scanners.md", text)
            self._text("tables/scans.csv", tables.scans_csv(self.results.detections))
            written += ["tables/scanners.md", "tables/scans.csv"]
        if text := planted.markdown(self.results):
            self._text("tables/victims.md", text)
            written.append("tables/victims.md")
        return written

    def _methods(self) -> None:
        every = [group for board in self.boards for group in board.groups]
        used = {"attack": "attack", "defense": "defense"}
        for role, methods in self.results.methods.items():
            for name, told in methods.items():
                own = [
                    group
                    for group in every
                    if role in used and getattr(group.first, used[role]).split(" ")[0] == name
                ]
                self._html(
                    f"methods/{role}-{name}.html",
                    "site/method.html.j2",
                    role=role,
                    method=told,
                    groups=own,
                    boards=self.boards,
                )

    def _cells(self) -> None:
        template = html().get_template("site/cell.html.j2")
        rows = {row.id: row for row in self.results.rows}
        for name, record in self.results.cells.items():
            with told_as(ParameterError, f"the result cells/{name}.json cannot be drawn"):
                self._text(f"cells/{name}.html", self._cell(template, rows[name], record))

    def _cell(self, template: Template, row: Row, record: Record) -> str:
        victim = self.results.victims.get(record["victim"])
        context = cell_context(row, record, victim, self.examples.get(record["victim"], []))
        told = record["cell"]
        return template.render(
            root="../",
            version=__version__,
            flags=FLAGS,
            slug=_slug,
            known=self._known,
            defense_facts=self._facts(defense=told["defense"]),
            victim_facts=self._facts(told=told["victim"], victim=_trained(victim or {})),
            image_facts=self._facts(data=told["victim"]["data"], images=record.get("images", {})),
            run_facts=self._facts(run={name: record[name] for name in RUN}),
            **context,
        )

    def _facts(self, **context: Any) -> Markup:
        """A part that many cells share, drawn once."""
        key = json.dumps(context)
        if key not in self.facts:
            self.facts[key] = Markup(self._page("site/facts.html.j2", known=self._known, **context))
        return self.facts[key]

    def _text(self, name: str, text: str) -> None:
        self._bytes(name, text.encode("utf-8", "backslashreplace"))

    def _bytes(self, name: str, data: bytes) -> None:
        write_whole(inside(self.folder, name), data, lasting=False)


def _trained(victim: Record) -> Record:
    """What the pages of its cells tell of a victim."""
    return {
        name: victim[name]
        for name in ("parameters", "learned", "asr_other_sources", "linear")
        if name in victim
    }


def _first_examples(record: Record) -> list[dict[str, Any]]:
    """What a victim's record says of its example images, without the images."""
    classes = record.get("classes", [])
    found = []
    for example in record.get("examples", []):
        said = {kind: classes[place] for kind, place in example["said"].items()}
        kinds = list(example["png"])
        found.append({"truth": classes[example["truth"]], "said": said, "kinds": kinds})
    return found


def _slug(name: str) -> str:
    """The name of a data set as a file's, which is never hidden and no other set's.

    What a grid calls a data set may stand in one as it is; what tells kinds of one apart may not.
    """
    plain = re.sub(r"[^\w.-]+", "-", name)
    if plain == name and len(name) <= 80:
        return f"data-{name}"
    return f"data-{plain[:80]}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"
