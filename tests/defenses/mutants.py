"""Deletes the core idea of a defense, one at a time, and demands that a test fails.

    PYTHONPATH=src:tests python -m defenses.mutants [PART OF A NAME]...

`make mutants` runs all, of attacks and defenses; exit code 1 where one survives.
"""

from __future__ import annotations

import sys

from defenses.mutants_of_newer import MUTANTS as OF_NEWER
from defenses.mutants_of_pruning import MUTANTS as OF_PRUNING
from defenses.mutants_of_terms import MUTANTS as OF_TERMS
from defenses.mutants_of_tuning import MUTANTS as OF_TUNING
from defenses.mutants_of_uat import MUTANTS as OF_UAT
from mutating import main

MUTANTS = OF_PRUNING + OF_TUNING + OF_UAT + OF_NEWER + OF_TERMS

if __name__ == "__main__":
    raise SystemExit(main(MUTANTS, sys.argv[1:]))
