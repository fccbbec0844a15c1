"""The methods that the tutorials print work as they are printed."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from unbackdoor.core.images import Images
from unbackdoor.core.method import declared
from unbackdoor.core.run import Run

DOCS = Path(__file__).parent.parent / "docs"


def printed(page: str, name: str, tmp_path: Path) -> type:
    """The class `name` of the only Python block of the page."""
    text = (DOCS / page).read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    file = tmp_path / f"{name.lower()}.py"
    file.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def test_the_defense(tmp_path):
    cls = printed("add-a-defense.md", "Magnitude", tmp_path)
    assert declared(cls)["parameters"]["share"]["default"] == 0.2
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
    clean = Images(
        torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8), torch.arange(8) % 2, ("a", "b")
    )
    repair = cls(epochs=0, share=0.5).repair(model, clean, Run(seed=0, device="cpu"))
    assert int((repair.model[0].weight == 0).sum()) == 18
    assert not (model[0].weight == 0).any()


def test_the_attack(tmp_path):
    cls = printed("add-an-attack.md", "Stripe", tmp_path)
    stamped = cls(row=1).stamp(torch.zeros(1, 1, 3, 2))
    assert stamped.tolist() == [[[[0, 0], [1, 1], [0, 0]]]]


@pytest.mark.parametrize("page", ["add-a-defense.md"])
def test_thirty_lines(page):
    (code,) = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.M | re.S)
    assert len([line for line in code.splitlines() if line.strip()]) <= 30
