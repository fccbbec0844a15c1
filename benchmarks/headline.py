"""The question the project stands on: does the repair work, and what does it cost?

    python benchmarks/headline.py                   what is missing, then docs/headline.*
    python benchmarks/headline.py --only wanet-w16  for these subjects only, with commas between
    python benchmarks/headline.py --tell            measure nothing, write docs/headline.* again

Every method repairs every subject that is there (`make victims` plants them) with the same
parameters. Each result is kept in `cache/repairs`, so a stop loses one at most, and two processes
may work side by side.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from repairs import Job, asr_after_retuning, done, result
from subjects import clean_subject, names, subject, victim_named
from victims import claimed, images

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
        return Job(subject_name, self.name, params, self.images)


TUNED = {"epochs": EPOCHS}
METHODS = (
    Method("none", "none", retuned=True),
    Method("fine_tuning", "fine_tuning", TUNED),
    Method("random_pruning", "random_pruning", TUNED),
    Method("fmp", "fmp", TUNED),
    Method("ft_sam", "ft_sam", TUNED, retuned=True),
    Method("fmp_plus", "fmp_plus", retuned=True),
    Method("fmp_plus, pruning alone", "fmp_plus", {"epochs": 0, "max_acc_drop": 1.0}),
    Method("fmp_plus, no pruning", "fmp_plus", {"p": 0}),
    Method("ft_sam, 500 images", "ft_sam", {"epochs": 10 * EPOCHS}, FEW),
    Method("fmp_plus, 500 images", "fmp_plus", {}, FEW),
)


def wanted(subject_name: str) -> Iterator[Method]:
    """The methods that say something of that subject."""
    for method in METHODS:
        if subject(subject_name).triggered is not None or "pruning alone" not in method.label:
            yield method


def measure(subject_name: str) -> None:
    """Every repair of that subject that was not measured yet."""
    for method in wanted(subject_name):
        job = method.job(subject_name)
        if done(job) is None:
            told = result(job)
            shown = [
                told[key] and round(100 * told[key]["value"], 2) for key in ("acc", "asr", "ra")
            ]
            print(subject_name, method.label, *shown, f"{told['seconds']:.0f} s", flush=True)
        if method.retuned and subject(subject_name).triggered is not None:
            retuned(method, subject_name)


def retuned(method: Method, subject_name: str) -> tuple[int, int] | None:
    """ASR (hits, total) after the re-activation attack; for `none`, of the clean model instead."""
    judged = subject(subject_name)
    victim = victim_named(subject_name)
    train = images(victim.data if victim else "cifar10", "train")
    job = method.job(subject_name)
    if method.name == "none":
        job = Job(clean_subject(subject_name), "none")
        if job.subject not in names():
            return None
        result(job)
    return asr_after_retuning(job, judged, train)


def main() -> None:
    """Measures what is missing and writes the page."""
    asks = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asks.add_argument("--only", default="", help="subjects, with commas between")
    asks.add_argument("--tell", action="store_true", help="measure nothing")
    given = asks.parse_args()
    only = [name for name in given.only.split(",") if name]
    for name in () if given.tell else only or names():
        with claimed(result_folder(name)) as mine:
            if mine:
                measure(name)
    from headline_page import write

    write(names())


def result_folder(name: str) -> Any:
    """Where the results of that subject are kept."""
    return Job(name, "none").path.parent


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
