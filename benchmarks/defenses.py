"""Every repair method under one roof: the same victims, the same clean images, the same measure.

    python benchmarks/defenses.py                  what is missing, then docs/defenses.*
    python benchmarks/defenses.py --only wanet-w16 on these victims only, with commas between
    python benchmarks/defenses.py --tell           measure nothing, write docs/defenses.* again

A method gets 2,500 clean images that its victim never saw. Its own defaults hold but for what
`ROWS` says: epochs cut to some 200 steps of fine-tuning, for time. Each result is kept in
`cache/repairs`, so a stop loses one at most, and two processes may work side by side.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from claims import claimed
from repairs import Job, done, result
from subjects import OUTSIDE, names

IMAGES = 2500
"""Clean images: 5 % of CIFAR-10's training images."""

VICTIMS = ("blended-w16", "badnets-w16", "wanet-w16", *OUTSIDE)
"""The most telling first."""


@dataclass(frozen=True)
class Row:
    """A method, and what is not its default."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    """What sets it apart from another row of the same method, for its label."""

    @property
    def label(self) -> str:
        """What the tables call it."""
        return f"{self.name}{self.note}"

    def job(self, victim: str) -> Job:
        """Its repair of that victim."""
        return Job(victim, self.name, self.params, IMAGES)


TUNED = {"epochs": 10, "batch": 128}
ROWS = (
    Row("none"),
    Row("fine_tuning", TUNED),
    Row("clp"),
    Row("bnp"),
    Row("ft_sam", TUNED),
    Row("fst"),
    Row("rnp"),
    Row("oracle_rnp"),
    Row("fine_pruning", TUNED),
    Row("nad", {**TUNED, "teacher_epochs": 5}),
    Row("unit", {"epochs": 10}),
    Row("anp"),
    Row("oracle_anp"),
    Row("i_bau", {"epochs": 2}),
    Row("npd", {"epochs": 5, "batch": 64}),
    Row("fmp_plus"),
    Row("fmp", TUNED),
    Row("mcr", {"epochs": 10, "copy_epochs": 10}),
    Row("neural_cleanse", TUNED),
    Row("sau", {"epochs": 3, "batch": 64}),
)
"""The cheap first: a run that is stopped has these for all victims."""


def main() -> None:
    """Measures what is missing and writes the page."""
    asks = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asks.add_argument("--only", default="", help="victims, with commas between")
    asks.add_argument("--tell", action="store_true", help="measure nothing")
    given = asks.parse_args()
    only = [name for name in given.only.split(",") if name]
    there = [name for name in VICTIMS if name in names() and (not only or name in only)]
    from defenses_page import told_before, write

    known = told_before()
    for row in () if given.tell else ROWS:
        for name in there:
            job = row.job(name)
            with claimed(job.path.with_suffix("")) as mine:
                if mine and (row.label, name) not in known and done(job) is None:
                    told = result(job)
                    shown = [f"{100 * told[key]['value']:.1f}" for key in ("acc", "asr", "ra")]
                    print(name, row.label, *shown, f"{told['seconds']:.0f} s", flush=True)
    write()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
