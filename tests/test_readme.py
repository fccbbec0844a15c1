"""What the README tells a newcomer to type is typed here, on tiny files of the names it uses."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unbackdoor.checkpoints import checkpoint
from unbackdoor.cli import main
from unbackdoor.core.spec import Spec
from unbackdoor.models import create

ROOT = Path(__file__).parent.parent
CLASSES = ("airplane", "automobile", "bird")
SHORT = ("-p", "epochs=1", "-p", "enough_images=1", "--device", "cpu")


def blocks(language: str, file: str = "README.md") -> list[str]:
    text = (ROOT / file).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    lines = "".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("unbackdoor ")]


def pictures(folder: Path, classes: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(3):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def parquet(path: Path, classes: tuple[str, ...]) -> None:
    pa = pytest.importorskip("pyarrow")
    import io
    import json

    import pyarrow.parquet as pq

    rng = np.random.default_rng(len(path.name))
    cells = []
    for _ in range(9):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "PNG")
        cells.append({"bytes": file.getvalue(), "path": None})
    features = {"label": {"names": list(classes), "_type": "ClassLabel"}}
    table = pa.table({"img": cells, "label": [row % len(classes) for row in range(9)]})
    told = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(told), path)


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """A folder with every file that the README names."""
    digits = tuple(str(number) for number in range(10))
    scale = ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))
    # The README says resnet18; a network of that name is too large for a quick test.
    bare = create(Spec("squeezenet1_1", digits, *scale))
    torch.save(bare.net.state_dict(), tmp_path / "model.pt")
    small = create(Spec("preact_resnet18", CLASSES, *scale, {"width": 2}))
    checkpoint.save(small, tmp_path / "victim.safetensors", {})
    pictures(tmp_path / "photos", digits)
    pictures(tmp_path / "test", digits)
    for name in ("clean", "test", "triggered_test"):
        parquet(tmp_path / f"{name}.parquet", CLASSES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_are_there():
    assert [command[1] for command in commands()] == ["--help", "inspect", "repair", "repair"]


@pytest.mark.parametrize("command", commands(), ids=lambda command: " ".join(command[:3]))
def test_commands_run(desk, command, capsys):
    given = ["squeezenet1_1" if part == "resnet18" else part for part in command[1:]]
    if given[0] == "repair":
        given += SHORT
    code = main(given)
    assert code in ((0, 1) if "--max-asr" in given else (0,)), capsys.readouterr().err
    if given[0] == "repair":
        listed = re.findall(r"^\| `([\w.]+\.\w+)` \|", (ROOT / "README.md").read_text(), re.M)
        assert sorted(path.name for path in (desk / "repaired").iterdir()) == sorted(listed)


@pytest.mark.filterwarnings("ignore:.* classes have fewer than 20")  # few, to be quick
def test_the_python_runs(desk, capsys):
    (code,) = blocks("python")
    code = code.replace("resnet18", "squeezenet1_1")
    assert "(model, clean)" in code
    code = code.replace("(model, clean)", "(model, clean, epochs=1, enough_images=1)")
    exec(compile(code, "README.md", "exec"), {})
    assert re.match(r"[\d.]+ \([\d.]+, [\d.]+\)", capsys.readouterr().out)


def test_links_lead_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            if not link.startswith("reference/"):  # made by a hook: see test_docs.py
                assert (page.parent / link).exists(), (page, link)


def test_make_targets_are_there_and_ci_runs_them():
    made = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(), re.M):
        assert re.search(rf"^{target}:", made, re.M)
    assert re.findall(r"^make .*", (ROOT / ".ci" / "run").read_text(), re.M) == [
        "make demo",
        "make test",
    ]


def test_the_options_in_the_docs_exist(capsys):
    for page in (ROOT / "docs").glob("*.md"):
        for line in re.findall(r"^unbackdoor (.*)", page.read_text(encoding="utf-8"), re.M):
            verb = line.split()[0]
            assert main([verb, "--help"]) == 0
            known = capsys.readouterr().out
            assert all(option in known for option in re.findall(r"--[\w-]+", line)), line
