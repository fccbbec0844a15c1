"""Results of a bench, as a stranger might have changed them, which `report` draws pages of."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from report import bench_samples

from .inputs import DIGITS, EITHER, REFUSED, TEXTS, Input, sparse, written

REPORT = ["report", "res", "--out", "out/site"]
SEED = 26
KINDS = ("cells", "victims", "plan")
NESTED = "[" * 100_000 + "]" * 100_000

VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "a list": [1, 2],
    "a table": {"a": 1},
    "a text": "x",
    "nothing": "",
    "-1": -1,
    "10^12": 10**12,
    "half": 0.5,
    "0": 0,
    "a list of lists": [[["x"]]],
    "1e300": 1e300,
    "10^400": 10**400,
    "a path": "../../../stolen",
    "a dunder": "__class__",
}


@cache
def good() -> dict[str, dict[str, Any]]:
    """A small folder of results: one record of each kind that has an example of each field."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        root = bench_samples.folder(Path(folder), attacks=("badnets",), defenses=("fmp",), seeds=1)
        return {
            os.fspath(path.relative_to(root)): json.loads(path.read_text())
            for path in sorted(root.glob("*/*.json"))
        }


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a record something stands; of a list the first entry alone."""
    if path:
        yield path
    inside = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value[:1])
        if isinstance(value, list)
        else ()
    )
    for name, part in inside:
        yield from places(part, (*path, name))


def changed(record: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of `record` in which something else stands at `path`."""
    found = copy.deepcopy(record)
    inner = found
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    return found


def folder_of(
    folder: Path, change: Callable[[str, dict[str, Any]], Any] = lambda _, record: record
) -> list[str]:
    """Writes the good records, each through `change`, which may give the text itself."""
    for name, record in good().items():
        told = change(name, record)
        written(folder / "res" / name, told if isinstance(told, str) else json.dumps(told))
    return REPORT


def _fields() -> Iterator[Input]:
    """Every field of a record, each with a wrong value or two."""
    rng = random.Random(SEED)
    shapes: dict[tuple[str, tuple[Any, ...]], str] = {}
    for name, record in good().items():
        for path in places(record):
            shapes.setdefault((name.split("/")[0], path), name)
    for (kind, path), name in shapes.items():
        told = rng.choice(sorted(VALUES))

        def make(folder: Path, name: str = name, path: Any = path, told: str = told) -> list[str]:
            return folder_of(
                folder, lambda n, r: changed(r, path, VALUES[told]) if n == name else r
            )

        where = ".".join(map(str, path))
        yield Input("results", f"{told} as {where} in {kind}", make, EITHER)


def _texts() -> Iterator[Input]:
    """Every text of the records replaced by a hostile one, wherever it stands."""

    def hostile(value: Any, text: str, keys: bool) -> Any:
        if isinstance(value, dict):
            return {
                (text + k if keys and k in ("width", "fmp", "torch", "epochs") else k): hostile(
                    v, text, keys
                )
                for k, v in value.items()
            }
        if isinstance(value, list):
            return [hostile(part, text, keys) for part in value]
        kept = isinstance(value, str) and (
            len(value) > 100 or value in ("done", "failed") or len(value) == 16
        )
        return text + value if isinstance(value, str) and not kept else value

    for name, text in TEXTS.items():
        for keys in (False, True):
            short = text[:5_000]

            def make(folder: Path, short: str = short, keys: bool = keys) -> list[str]:
                return folder_of(folder, lambda _, record: hostile(record, short, keys))

            yield Input(
                "results", f"{name} in every text{' and key' if keys else ''}", make, EITHER
            )


def _identities() -> Iterator[Input]:
    """Names that become names of files."""
    for told in (
        "../../../stolen",
        "/tmp/stolen-by-a-result",
        "..",
        "a/b",
        "a\0b",
        "x" * 5_000,
        "\x1b[31m",
        "con",
        "",
    ):
        for kind in ("cells", "victims"):

            def make(folder: Path, told: str = told, kind: str = kind) -> list[str]:
                old = {n: r["id"] for n, r in good().items() if n.startswith(kind)}

                def change(name: str, record: dict[str, Any]) -> str:
                    text = json.dumps(record)
                    for identity in list(old.values())[:1]:
                        text = text.replace(f'"{identity}"', json.dumps(told))
                    return text

                return folder_of(folder, change)

            yield Input("results", f"{told[:20]!r} as the identity of {kind}", make, EITHER)

            def method(folder: Path, told: str = told) -> list[str]:
                return folder_of(
                    folder, lambda _, record: json.dumps(record).replace('"fmp"', json.dumps(told))
                )

        yield Input("results", f"{told[:20]!r} as the name of a method", method, EITHER)


RAW: dict[str, str] = {
    "nested 100,000 deep": '{"format": 1, "a": ' + NESTED + "}",
    "a number of 5,000 digits": f'{{"format": {DIGITS}}}',
    "NaN": '{"format": NaN}',
    "infinite": '{"format": 1e999}',
    "no JSON": "{",
    "nothing": "",
    "a list": "[]",
    "one key twice": '{"format": 1, "format": 2, "id": "a", "id": "b"}',
    "half a character": '{"format": "\\ud800"}',
    "no text": "\ud800",
    "60 MB of lists": '{"format": 1, "a": [' + "[]," * (2 * 10**7) + "[]]}",
}


def _links() -> Iterator[Input]:
    def linked(where: str, target: str) -> Callable[[Path], list[str]]:
        def make(folder: Path) -> list[str]:
            folder_of(folder)
            (folder / "kept").mkdir()
            written(folder / "kept" / "index.html", "kept")
            path = folder / where
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(target)
            return REPORT

        return make

    yield Input("results", "a link where pages go", linked("out/site/cells", "../../kept"), REFUSED)
    yield Input(
        "results",
        "a link where a page goes",
        linked("out/site/index.html", "../../kept/index.html"),
        EITHER,
    )
    yield Input(
        "results", "a link where tables go", linked("out/site/tables", "../../kept"), REFUSED
    )
    yield Input(
        "results",
        "a link where a table goes",
        linked("out/site/tables/cells.parquet", "../../../kept/index.html"),
        EITHER,
    )
    yield Input(
        "results", "a result that never ends", linked("res/cells/a.json", "/dev/zero"), REFUSED
    )
    yield Input(
        "results",
        "a result that is a link to a secret",
        linked("res/cells/a.json", "/etc/passwd"),
        REFUSED,
    )
    yield Input(
        "results",
        "a result that is a link to itself",
        linked("res/cells/a.json", "a.json"),
        REFUSED,
    )

    def pipe(folder: Path) -> list[str]:
        folder_of(folder)
        os.mkfifo(folder / "res" / "cells" / "a.json")
        return REPORT

    def holes(folder: Path) -> list[str]:
        folder_of(folder)
        sparse(folder / "res" / "cells" / "a.json", 10**10, b"{")
        return REPORT

    yield Input("results", "a result that is a pipe", pipe, REFUSED)
    yield Input("results", "a result of 10 GB of nothing", holes, REFUSED)
    yield Input(
        "results",
        "a result that is a folder",
        lambda folder: (folder_of(folder), (folder / "res/cells/a.json").mkdir(), REPORT)[2],
        REFUSED,
    )


def inputs() -> Iterator[Input]:
    yield from _fields()
    yield from _texts()
    yield from _identities()
    for name, text in RAW.items():
        for kind in KINDS if len(text) < 10**6 else KINDS[:1]:  # reading 60 MB takes seconds

            def make(folder: Path, text: str = text, kind: str = kind) -> list[str]:
                folder_of(folder)
                written(folder / "res" / kind / "a.json", text)
                return REPORT

            yield Input("results", f"{name} as one of {kind}", make, EITHER)
    yield from _links()
