"""The imports table of docs/architecture.md, read from the source: who may know whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import unbackdoor

SOURCE = Path(unbackdoor.__file__).parent
BASE = {"channels", "images", "modules", "run"}
TOOLS = {"measure", "ranking", "reverse", "train"}
METHODS = {"attacks", "defenses", "scanners", "bench"}
SIDES = {"attacks", "attack", "data", "checkpoint", "models", "bench", "cli", "api"}

# What a room must never import. `errors` may be imported by all, and imports nothing.
NEVER = {
    "errors": {"*"},
    "images": {"*"},
    "run": {"*"},
    "modules": {"*"},
    "channels": {"*"},
    "method": METHODS | SIDES | {"defense"},
    **{tool: METHODS | SIDES | {"defense"} for tool in TOOLS},
    "attack": METHODS - {"attacks"} | {"defense", "channels", "cli", "api"},
    "attacks": {"channels", "defense", "defenses", "scanners", "bench", "cli", "api", "data"},
    "defense": SIDES | METHODS,
    "defenses": SIDES | {"scanners", "attacks"},
    "models": METHODS | {"attack", "defense", "data", "checkpoint", "cli", "api"},
    "data": METHODS | {"attack", "defense", "models", "cli", "api"},
    "checkpoint": METHODS | {"attack", "defense", "cli", "api"},
    "report": {"*"},
    "api": {"cli", "bench", "attacks", "defenses"},
}
ALSO_ALLOWED = {"channels": {"modules"}, "report": {"bench"}}


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
    never = NEVER.get(room, {"cli"} if room != "cli" else set())
    if "*" in never:
        assert not knows - ALSO_ALLOWED.get(room, set())
    assert not knows & never


def test_siblings_never_see_each_other():
    for path in files():
        if room_of(path) in ("attacks", "defenses") and path.name != "__init__.py":
            assert room_of(path) not in imported(path), path
            siblings = {other.stem for other in path.parent.glob("*.py")}
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.level == 1:
                    assert not {node.module, *(a.name for a in node.names)} & siblings, path


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
