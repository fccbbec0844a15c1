"""How the program starts: its version, shell completion, and what it must not load."""

from __future__ import annotations

import subprocess
import sys

import pytest

from unbackdoor import __version__
from unbackdoor.cli import main


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"unbackdoor {__version__}\n"


def test_the_module_is_the_command():
    command = [sys.executable, "-m", "unbackdoor", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"unbackdoor {__version__}\n"


@pytest.mark.parametrize(
    "code",
    [
        "import unbackdoor",
        "from unbackdoor.cli import main; main(['--help'])",
        "from unbackdoor.cli import main; main(['repair', '--help'])",
    ],
)
def test_torch_is_not_loaded(code):
    code += "; import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize("asked", [["--help"], ["describe", "fmp"], ["list"], ["--version"]])
def test_a_reader_that_leaves_is_no_fault(asked):
    command = [sys.executable, "-m", "unbackdoor", *asked]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        running.stdout.close()  # before anything is written
        assert running.stderr.read() == b""
    assert running.returncode == 141


def test_completion_of_a_shell(capsys, monkeypatch):
    monkeypatch.setenv("_UNBACKDOOR_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "unbackdoor rep")
    monkeypatch.setenv("COMP_CWORD", "1")
    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr().out.split() == ["repair", "report"]
