"""The GitHub Action: its steps, run as they are written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.conftest import save_npz
from cli.greys import CLASSES, greys, told
from unbackdoor.checkpoints import checkpoint

ROOT = Path(__file__).parents[1]


def step(name: str) -> str:
    """The script of a step: the indented lines after its `run: |`."""
    text = (ROOT / "action.yml").read_text(encoding="utf-8").partition(f"- name: {name}\n")[2]
    lines = text.partition("run: |\n")[2].splitlines()
    return "\n".join(line[8:] for line in lines)


@pytest.fixture
def ran(tmp_path):
    checkpoint.save(told(0, 1), tmp_path / "my model.safetensors", {})
    save_npz(tmp_path / "clean.npz", *greys())
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, code in (("unbackdoor", "-m unbackdoor"), ("python", "")):
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {code} "$@"\n')
        (tools / name).chmod(0o755)

    def run(**given: str) -> subprocess.CompletedProcess[str]:
        asked = {
            "MODEL": "my model.safetensors",
            "CLEAN": "clean.npz",
            "OUT": "out",
            "CALIBRATION": "",
            "FAIL_ON": "not-judged",
            "ARGUMENTS": "--seed 3 --quiet --scanner latent",
            **given,
        }
        env = {
            **os.environ,
            **asked,
            "PATH": f"{tools}:{os.environ['PATH']}",
            "GITHUB_OUTPUT": str(tmp_path / "output"),
            "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
        }
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step("Scan")],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_the_scan_step_writes_sarif_and_outputs_even_when_it_fails(ran, tmp_path):
    assert len(CLASSES) == 3
    done = ran()
    assert done.returncode == 3, done.stderr
    told_ = (tmp_path / "output").read_text().splitlines()
    assert told_ == ["outcome=not judged", "sarif=out/scan.sarif"]
    log = json.loads((tmp_path / "out" / "scan.sarif").read_text())
    assert log["runs"][0]["results"][0]["ruleId"] == "UNBACKDOOR002"
    assert json.loads((tmp_path / "out" / "record.json").read_text())["seed"] == 3


def test_bad_input_and_hostile_inputs_do_nothing_else(ran, tmp_path):
    done = ran(
        MODEL="none.pt; touch owned $(touch owned) `touch owned`", ARGUMENTS="$(touch owned)"
    )
    assert done.returncode == 2
    assert not (tmp_path / "owned").exists() and not (tmp_path / "output").exists()


def test_no_step_puts_an_input_into_its_script():
    for name in ("Install", "Scan"):
        assert "${{" not in step(name)
