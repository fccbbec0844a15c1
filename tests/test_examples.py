"""The examples in docstrings hold; those of the Python interface are run in test_api.py."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import unbackdoor

ROOT = Path(unbackdoor.__file__).parent
SHOWN = [
    ".".join(("unbackdoor", *path.relative_to(ROOT).with_suffix("").parts))
    for path in sorted(ROOT.rglob("*.py"))
    if ">>>" in path.read_text(encoding="utf-8") and path.name != "api.py"
]


@pytest.mark.parametrize("name", SHOWN)
def test_examples_hold(name: str) -> None:
    told = doctest.testmod(importlib.import_module(name))
    assert told.attempted and not told.failed
