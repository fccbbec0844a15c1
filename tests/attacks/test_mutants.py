"""The list of mutants is whole: each text is there once, and changes to something else."""

from __future__ import annotations

import pytest

from mutating import PACKAGE, ROOT, Mutant

from .mutants import MUTANTS


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.idea)
def test_what_a_mutant_deletes_is_there_once(mutant: Mutant) -> None:
    text = (ROOT / PACKAGE / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.text) == 1
    assert mutant.text != mutant.mutated
    assert (ROOT / "tests" / mutant.test.partition("::")[0]).is_file()
