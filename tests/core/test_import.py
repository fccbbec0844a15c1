"""Importing the package, or asking for help, is quick: torch is not read."""

from __future__ import annotations

import subprocess
import sys

import pytest

import unbackdoor

HEAVY = ("torch", "torchvision", "numpy", "sklearn", "matplotlib", "jinja2")


@pytest.mark.parametrize(
    "code",
    [
        "import unbackdoor; dir(unbackdoor)",
        "from unbackdoor.cli import main; assert main(['--help']) == 0",
        "from unbackdoor.cli import main; assert main(['repair', '--help']) == 0",
        "from unbackdoor.cli import main; assert main(['repair']) == 2",
    ],
)
def test_no_torch(code):
    check = f"{code}\nimport sys; print('heavy:', *[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy:"


@pytest.mark.parametrize("name", unbackdoor.__all__)
def test_public_names_are_there_and_documented(name):
    found = getattr(unbackdoor, name)
    assert found.__doc__
    assert name in dir(unbackdoor)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="repare"):
        unbackdoor.repare  # noqa: B018
