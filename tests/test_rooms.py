"""The imports table of docs/architecture.md, read from the source: who may know whom."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import unbackdoor

SOURCE = Path(unbackdoor.__file__).parent
ARCHITECTURE = SOURCE.parents[1] / "docs" / "architecture.md"

# The rooms from the ground up, and whom each may know beside itself.
MAY = {
    "core": set(),
    "network": {"core"},
    "training": {"core"},
    "ranking": {"core", "network"},
    "models": {"core"},
    "checkpoints": {"core", "models", "network"},
    "data": {"core", "checkpoints"},
    "evidence": {"core", "network", "models", "data"},
    "attacks": {"core", "models", "training"},
    "defenses": {"core", "network", "ranking", "training"},
    "scanners": {"core", "defenses", "training"},
    "bench": {
        *("core", "network", "training", "models", "checkpoints", "data"),
        *("attacks", "defenses", "scanners"),
    },
    "report": {"core", "bench"},
    "api": {
        *("core", "models", "checkpoints", "data", "evidence"),
        *("attacks", "defenses", "scanners"),
    },
}
METHODS = ("attacks", "defenses", "scanners")


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def files() -> list[Path]:
    doors = (SOURCE / "__init__.py", SOURCE / "__main__.py")
    return [path for path in sorted(SOURCE.rglob("*.py")) if path not in doors]


def imported(path: Path) -> set[str]:
    """The modules that a file imports, at its top or in a function, by their full names."""
    package = list(path.relative_to(SOURCE.parent).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module or "").split(".")] if node.module else base
            found |= {".".join([*module, alias.name]) for alias in node.names}
    return found


def rooms(path: Path) -> set[str]:
    """The rooms of ours that a file imports."""
    return {name.split(".")[1] for name in imported(path) if name.startswith("unbackdoor.")}


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_room_knows_only_whom_it_may(path):
    room = room_of(path)
    if room != "cli":  # knows everyone, and nobody knows it
        assert not rooms(path) - {room} - MAY[room], f"{room}: see MAY, and docs/architecture.md"


def test_every_room_is_in_the_table_and_in_the_picture():
    found = {room_of(path) for path in files()}
    assert found - {"cli"} == MAY.keys()
    picture = ARCHITECTURE.read_text(encoding="utf-8").split("```")[1]
    drawn = re.findall(r"^  (\w+)(?:\.py|/)", picture, re.MULTILINE)
    assert set(drawn) - {"__init__"} == found


def test_the_table_has_no_way_round():
    for room, known in MAY.items():  # each room knows only rooms below it: no circle is possible
        assert known <= set(list(MAY)[: list(MAY).index(room)])


def test_an_import_is_found_however_it_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "SOURCE", tmp_path / "unbackdoor")
    path = tmp_path / "unbackdoor" / "defenses" / "new.py"
    path.parent.mkdir(parents=True)
    for line, room in {
        "import unbackdoor.attacks": "attacks",
        "from unbackdoor import attacks": "attacks",
        "from unbackdoor.attacks.sig import SIG": "attacks",
        "from .. import data": "data",
        "from ..data.npz import read": "data",
        "def f():\n    from ..cli import main": "cli",
    }.items():
        path.write_text(line)
        assert room in rooms(path), line


def test_methods_know_only_what_they_share():
    for path in files():
        if room_of(path) in METHODS:
            own = [name for name in imported(path) if name.split(".")[1:2] == [room_of(path)]]
            assert all(name.split(".")[2] == "base" for name in own), path


def test_the_report_knows_of_the_bench_only_its_records_and_never_torch():
    for path in (SOURCE / "report").rglob("*.py"):
        for name in imported(path):
            assert name.split(".")[0] != "torch", path
            if name.startswith(("unbackdoor.bench", "unbackdoor.core")):
                known = ("bench.store", "bench.flags", "core.version", "core.errors", "core.files")
                known += ("core.text", "core.foreign")
                assert name.removeprefix("unbackdoor.").startswith(known), path


def test_only_the_command_line_prints():
    for path in files():
        if room_of(path) != "cli":
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                called = node.func if isinstance(node, ast.Call) else None
                assert not (isinstance(called, ast.Name) and called.id == "print"), path


def test_no_file_is_long():
    root = ARCHITECTURE.parents[1]
    others = (*(root / "tests").rglob("*.py"), *(root / "benchmarks").glob("*.py"))
    for path in (*files(), *others):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 300, path
