"""The imports table of docs/architecture.md, read from the source: who may know whom."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import unbackdoor

SOURCE = Path(unbackdoor.__file__).parent
ARCHITECTURE = SOURCE.parents[1] / "docs" / "architecture.md"

# Whom a room may know, beside itself and `errors`. A room that is not here knows nobody.
MAY = {
    # the ground: tensors and nothing of ours
    **dict.fromkeys(("errors", "images", "modules", "run", "method", "untrusted"), frozenset()),
    **dict.fromkeys(("adversarial", "disturbance", "implicit"), frozenset()),
    **dict.fromkeys(("patterns", "sharpness"), frozenset()),
    # tools for methods
    "capacity": {"channels", "images", "modules", "run"},
    "channels": {"modules"},
    "distillation": {"disturbance", "modules"},
    "inserts": {"modules"},
    "attention": {"channels", "modules"},
    "lean": {"channels", "modules", "run"},
    "reverse": {"channels", "images", "lean", "modules", "run"},
    "ranking": {"channels", "images", "lean", "modules", "reverse", "run"},
    "train": {"images", "modules", "run"},
    "measure": {"images", "modules", "run"},
    "norms": {"channels", "images", "measure", "modules", "run"},
    "inversion": {"images", "modules", "run"},
    "recall": {"images", "run"},
    "visibility": {"images"},
    # attacks, who know nothing of defenses
    "attack": {"images", "method", "recall", "run", "train"},
    "controlled": {"attack", "images", "recall", "run", "train"},
    "attacks": {"attack", "controlled", "images", "modules", "patterns", "recall", "run", "train"},
    "planting": {"attack", "images", "measure", "models", "run"},
    "export": {"attack", "images"},
    # defenses, who know nothing of attacks, of files and of how networks are made
    "defense": {"channels", "images", "measure", "method", "recall", "run", "train"},
    "defenses": {
        *("defense", "images", "measure", "modules", "run", "train"),
        *("adversarial", "attention", "capacity", "channels", "distillation", "implicit"),
        *("inserts", "inversion", "norms"),
        *("ranking", "recall", "reverse", "sharpness"),
    },
    # what is on disk
    "models": set(),
    "model_files": {"untrusted"},
    "checkpoint": {"inserts", "model_files", "models", "untrusted"},
    "data": {"images", "untrusted"},
    "record": {"defense", "images", "measure", "method", "models", "run", "untrusted"},
    # everything at once, for the one room that holds both sides
    "bench": {
        *("attack", "channels", "checkpoint", "data", "defense", "export", "images", "measure"),
        *("method", "models", "planting", "recall", "record", "run", "train"),
    },
    # the outside
    "report": {"bench"},
    "api": {"checkpoint", "data", "defense", "images", "measure", "method", "models", "run"},
}


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def files() -> list[Path]:
    return [path for path in sorted(SOURCE.rglob("*.py")) if path != SOURCE / "__init__.py"]


def imported(path: Path) -> set[str]:
    """The rooms of ours that a file imports, at its top or in a function."""
    package = list(path.relative_to(SOURCE.parent).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module or "").split(".")] if node.module else base
            names = [".".join([*module, alias.name]) for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("unbackdoor.")}
    return found


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_room_knows_only_whom_it_may(path):
    room = room_of(path)
    knows = imported(path) - {room, "errors", "__version__"}
    if room == "cli":  # knows everyone, and nobody knows it
        return
    assert not knows - MAY.get(room, set()), f"{room}: see MAY, and docs/architecture.md"


def test_every_room_is_in_the_table_and_in_the_picture():
    rooms = {room_of(path) for path in files()}
    assert rooms - {"cli"} == MAY.keys()
    picture = ARCHITECTURE.read_text(encoding="utf-8").split("```")[1]
    drawn = re.findall(r"^  (\w+)(?:\.py|/)(?: +(\w+)/)?", picture, re.MULTILINE)
    assert {name for pair in drawn for name in pair if name} - {"__init__"} == rooms


def test_the_table_has_no_way_round():
    def known(room):
        return MAY[room] | {far for near in MAY[room] for far in known(near)}

    for room in MAY:  # a circle would never end
        assert room not in known(room)
    assert not known("defenses") & {"attack", "attacks", "controlled", "checkpoint", "data"}
    assert not known("attacks") & {"defense", "defenses", "checkpoint", "data", "channels"}
    assert "cli" not in {far for room in MAY for far in known(room)}


def test_an_import_is_found_however_it_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "SOURCE", tmp_path / "unbackdoor")
    path = tmp_path / "unbackdoor" / "defenses" / "new.py"
    path.parent.mkdir(parents=True)
    for line, room in {
        "import unbackdoor.attack": "attack",
        "from unbackdoor import attack": "attack",
        "from unbackdoor.attacks.sig import SIG": "attacks",
        "from .. import data": "data",
        "from ..data.npz import read": "data",
        "def f():\n    from ..cli import main": "cli",
    }.items():
        path.write_text(line)
        assert room in imported(path), line


def test_siblings_never_see_each_other():
    for path in files():
        if room_of(path) in ("attacks", "defenses") and path.name != "__init__.py":
            assert room_of(path) not in imported(path), path
            siblings = {other.stem for other in path.parent.glob("*.py")}
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.level == 1:
                    assert not {node.module, *(a.name for a in node.names)} & siblings, path


def test_the_report_knows_of_the_bench_only_its_records():
    for path in (SOURCE / "report").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and "bench" in (node.module or ""):
                assert node.module in ("bench.store", "bench.flags"), path


def test_the_report_never_imports_torch():
    for path in (SOURCE / "report").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] == "torch"], path


def test_only_the_command_line_prints():
    for path in files():
        if room_of(path) != "cli":
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                called = node.func if isinstance(node, ast.Call) else None
                assert not (isinstance(called, ast.Name) and called.id == "print"), path
