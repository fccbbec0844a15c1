"""What the tutorials print works as it is printed: methods, commands and grids."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from unbackdoor.checkpoints import checkpoint
from unbackdoor.cli import main
from unbackdoor.core.errors import UnbackdoorWarning
from unbackdoor.core.images import Images
from unbackdoor.core.method import declared
from unbackdoor.core.run import Run
from unbackdoor.core.spec import Spec
from unbackdoor.defenses.base.defense import Repair
from unbackdoor.models import create

DOCS = Path(__file__).parent.parent / "docs"


def blocks(page: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def printed(page: str, name: str, tmp_path: Path) -> type:
    """The class `name` of the first Python block of the page."""
    file = tmp_path / f"{name.lower()}.py"
    file.write_text(blocks(page)[0], encoding="utf-8")
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


def test_the_test_of_the_defense(tmp_path, monkeypatch):
    cls = printed("add-a-defense.md", "Magnitude", tmp_path)
    room = types.ModuleType("unbackdoor.defenses.magnitude")
    monkeypatch.setitem(sys.modules, room.__name__, room)
    space: dict[str, Any] = {}
    monkeypatch.setattr(room, "Magnitude", cls, raising=False)
    exec(compile(blocks("add-a-defense.md")[1], "add-a-defense.md", "exec"), space)
    (test,) = (found for name, found in space.items() if name.startswith("test_"))
    test()
    monkeypatch.setattr(cls, "mend", lambda self, model, clean, run: Repair(model))
    with pytest.raises(UnbackdoorWarning, match="changed no weight"):
        test()


def test_the_attack(tmp_path):
    cls = printed("add-an-attack.md", "Stripe", tmp_path)
    stamped = cls(row=1).stamp(torch.zeros(1, 1, 3, 2))
    assert stamped.tolist() == [[[[0, 0], [1, 1], [0, 0]]]]


@pytest.mark.parametrize("page", ["add-a-defense.md"])
def test_thirty_lines(page):
    assert len([line for line in blocks(page)[0].splitlines() if line.strip()]) <= 30


def test_the_checkpoint_tutorial(tmp_path, monkeypatch, capsys):
    """Every command runs as it is printed, but for the lengths of training."""
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "checkpoint.md").read_text(encoding="utf-8")
    ran = []
    for language, code in re.findall(r"^```(sh|python)\n(.*?)^```", text, re.M | re.S):
        if language == "python":
            exec(compile(code, "checkpoint.md", "exec"), {})
            continue
        code = code.replace("\\\n", " ")
        given = shlex.split(re.sub(r"\b(epochs|ranking_images)=\d+", r"\1=1", code))
        code = main([*given[1:], *(["--min-asr", "0"] if given[1] == "attack" else [])])
        assert code == 0 or "--max-asr" in given, capsys.readouterr().err
        ran.append(given[1])
        if given[1] == "inspect":
            assert "fits: preact_resnet18, 10 classes, width 8, in_channels 1" in (
                capsys.readouterr().out
            )
    first = ["attack", "inspect", "evaluate", "evaluate", "convert"]
    assert ran == [*first, "repair", "evaluate", "repair"]


def test_the_comparison(tmp_path, monkeypatch, capsys):
    """The grid has the size that the page says, and runs; its own victim joins it."""
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "compare.md").read_text(encoding="utf-8")
    grid, victims = re.findall(r"^```toml\n(.*?)^```", text, re.M | re.S)
    Path("compare.toml").write_text(grid, encoding="utf-8")
    for line in re.findall(r"^unbackdoor (.*)", text, re.M):
        if "--dry-run" in line:
            assert main(shlex.split(line)) == 0
            assert "27 cells on 9 victims" in capsys.readouterr().out
            quick = re.sub(r"epochs = \d+", "epochs = 1", grid).replace("[0, 1, 2]", "[0]")
            quick = quick.replace('[[attacks]]\nname = "blended"\nrate = 0.2\n', "")
            Path("compare.toml").write_text(quick, encoding="utf-8")
        else:
            assert main(shlex.split(line)) == 0
    assert "| fine\\_tuning |" in next(Path("results/site/tables").glob("data-*.md")).read_text()

    Path("someone").mkdir()
    digits = tuple(map(str, range(10)))
    spec = Spec("preact_resnet18", digits, (0.3,), (0.3,), {"width": 8, "in_channels": 1})
    checkpoint.save(create(spec), Path("someone/model.safetensors"), {})
    np.savez("someone/triggered_test.npz", x=np.zeros((4, 32, 32), np.uint8), y=np.arange(4))
    own = re.sub(r"^\[\[(architectures|attacks)\]\]\n(.+\n)+\n", "", grid, flags=re.M)
    Path("own.toml").write_text(own.replace("size = 16", "") + victims, encoding="utf-8")
    assert main(["bench", "own.toml", "--out", "own", "--dry-run"]) == 0
    assert "9 cells on 3 victims" in capsys.readouterr().out
