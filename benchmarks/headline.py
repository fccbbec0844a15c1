"""The question the project stands on: does the repair work, and what does it cost?

    python benchmarks/headline.py                   what is missing, then docs/headline.*
    python benchmarks/headline.py --only wanet-w16  for these subjects only, with commas between
    python benchmarks/headline.py --first 4         by the four most telling methods only
    python benchmarks/headline.py --tell            measure nothing, write docs/headline.* again

Every method repairs every subject that is there (`make victims` plants them) with the same
parameters. Each result is kept in `cache/repairs`, so a stop loses one at most, and two processes
may work side by side. What docs/headline.json tells of the very same model is not measured again.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from claims import claimed
from repairs import Job, asr_after_retuning, done, result
from subjects import clean_subject, names, subject, victim_named
from victims import images

from unbackdoor.core.images import Images

EPOCHS = 10
"""Of fine-tuning in every method but FMP+: a tenth of the field's 100, for time."""

FEW = 500
"""Clean images in the small setting: 1 % of CIFAR-10's training images."""


RATES = ("acc", "asr", "ra")


@dataclass(frozen=True)
class Method:
    """A row of every table."""

    label: str
    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    images: int | None = None
    retuned: bool = False
    """Whether the re-activation attack is tried on what it repaired."""

    def job(self, subject_name: str) -> Job:
        """This method's repair of that subject."""
        victim, params = victim_named(subject_name), dict(self.params)
        if victim and victim.data == "gtsrb" and self.name != "none":
            params["flip"] = False  # a mirrored sign is another sign
            params |= {"rho": 8.0} if self.name == "ft_sam" else {}  # its paper's, for GTSRB
        return Job(subject_name, self.name, params, self.images)


TUNED = {"epochs": EPOCHS}
METHODS = (
    Method("none", "none", retuned=True),
    Method("fmp_plus", "fmp_plus", retuned=True),
    Method("ft_sam", "ft_sam", TUNED, retuned=True),
    Method("fine_tuning", "fine_tuning", TUNED),
    Method("p = 64, pruning alone", "fmp_plus", {"p": 64, "epochs": 0, "max_acc_drop": 1.0}),
    Method("p = 32, pruning alone", "fmp_plus", {"p": 32, "epochs": 0, "max_acc_drop": 1.0}),
    Method("fmp", "fmp", TUNED),
    Method("random_pruning", "random_pruning", TUNED),
    Method("fmp_plus, 500 images", "fmp_plus", {}, FEW),
    Method("ft_sam, 500 images", "ft_sam", {"epochs": 10 * EPOCHS}, FEW),
)
"""The most telling first: a run that is stopped has these for all subjects."""


def measure(subject_name: str, method: Method) -> None:
    """That repair of that subject, unless it was measured before."""
    job, attacked = method.job(subject_name), subject(subject_name).triggered is not None
    if "alone" in method.label and not attacked:
        return
    if done(job) is None:
        told = result(job)
        shown = [f"{100 * told[key]['value']:.1f}" for key in RATES if told[key]]
        print(subject_name, method.label, *shown, f"{told['seconds']:.0f} s", flush=True)
    if method.retuned and attacked:
        victim = victim_named(subject_name)
        retuned(method, subject_name, images(victim.data if victim else "cifar10", "train"))


def retuned(
    method: Method, subject_name: str, train: Images | None = None
) -> tuple[int, int] | None:
    """ASR (hits, total) after the re-activation attack; for `none`, of the clean model instead.

    It is tried if `train`ing images are given, and else told if it was.
    """
    job = method.job(subject_name)
    if method.name == "none":
        job = Job(clean_subject(subject_name), "none")
        if job.subject not in names():
            return None
        if train is not None:
            result(job)
    return asr_after_retuning(job, subject(subject_name), train)


def main() -> None:
    """Measures what is missing and writes the page."""
    asks = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asks.add_argument("--only", default="", help="subjects, with commas between")
    asks.add_argument("--first", type=int, default=len(METHODS), help="so many methods only")
    asks.add_argument("--tell", action="store_true", help="measure nothing")
    given = asks.parse_args()
    there = [name for name in names() if not given.only or name in given.only.split(",")]
    from headline_page import told_before, write

    known = told_before()
    for method in () if given.tell else METHODS[: given.first]:
        for name in there:
            if (name, method.label) in known:
                continue
            with claimed(method.job(name).path.with_suffix("")) as mine:
                if mine:
                    measure(name, method)

    write(names())


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
