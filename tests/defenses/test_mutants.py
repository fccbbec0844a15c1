"""The list of mutants is whole, and every defense has one."""

from __future__ import annotations

import pytest

from defenses.mutants import MUTANTS
from mutating import PACKAGE, ROOT, Mutant
from unbackdoor.core.method import names


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.idea)
def test_what_a_mutant_deletes_is_there_once(mutant: Mutant) -> None:
    text = (ROOT / PACKAGE / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.text) == 1
    assert mutant.text != mutant.mutated
    assert (ROOT / "tests" / mutant.test.partition("::")[0]).is_file()


def test_every_defense_has_a_mutant() -> None:
    mutated = {mutant.file.removeprefix("defenses/").removesuffix(".py") for mutant in MUTANTS}
    assert set(names("defense")) <= mutated
