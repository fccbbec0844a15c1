"""The list of mutants is whole, and every attack has one."""

from __future__ import annotations

import pytest

from mutating import PACKAGE, ROOT, Mutant
from unbackdoor.core.method import names

from .mutants import MUTANTS


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.idea)
def test_what_a_mutant_deletes_is_there_once(mutant: Mutant) -> None:
    text = (ROOT / PACKAGE / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.text) == 1
    assert mutant.text != mutant.mutated


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.idea)
def test_the_test_of_a_mutant_imports_what_it_changes(mutant: Mutant) -> None:
    test = (ROOT / "tests" / mutant.test.partition("::")[0]).read_text(encoding="utf-8")
    module = f"unbackdoor.{mutant.file.removesuffix('.py').replace('/', '.')}"
    # What attacks share may be tested on one of them.
    assert ("unbackdoor.attacks." if "/base/" in mutant.file else f"{module} import") in test


def test_every_attack_has_a_mutant() -> None:
    mutated = {mutant.file.removeprefix("attacks/").removesuffix(".py") for mutant in MUTANTS}
    assert set(names("attack")) <= mutated
