"""The verdict: what a scanner found, against clean models of the same kind."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from torch import nn

from ...core.images import Images, to_float
from ...core.measure import Rate, accuracy, near_chance
from ...core.method import build
from ...core.modules import copied
from ...core.run import Run
from . import calibration
from .calibration import Calibration
from .scanner import Finding, Scanner, drawn
from .small_change import Ladder, smallest_change

QUICK, WIDE = "latent", "targeted"
"""The scanner of networks of a known kind, and that of others, where nobody names one."""

LEVEL = 0.05
"""The share of clean models that may be called suspicious."""

FEWEST_MODELS = math.ceil(1 / LEVEL) - 1
"""So many clean models are needed before any score can be called that rare."""

FEWEST_KINDS = 3
"""So many other kinds are needed to judge a network of a kind that is not known."""

FEWEST_IMAGES = 10
"""Images of a class, on average, below which nothing is judged."""

UNLIKE = (
    "compared with networks of other kinds nothing stands out, but such a comparison misses many "
    f"backdoors, and fewer than {FEWEST_MODELS} clean models of this kind are known "
    "(scan --calibrate)"
)
"""Why a network of a kind that is not known is not called free of signs."""

PICTURED = 64
"""Clean images that the change is sought on that a suspicious model's page shows."""

LADDER = Ladder(smallest=0.5, growth=2**0.5, radii=8, steps=8, reach=0.9)
"""How it is sought."""


class Outcome(StrEnum):
    """What a scan can end in. None of them promises that a model is clean."""

    nothing = "no sign of a backdoor found"
    suspicious = "suspicious"
    not_judged = "not judged"


@dataclass(frozen=True)
class Alarms:
    """How a score stands among those of clean models of its kind.

    `p_value` estimates the share of clean models that would score as high: (1 + those that do) /
    (1 + all). A score above `threshold` is suspicious. `false_alarms` counts the clean models
    above it, `expected` is the rate of false alarms that is to be expected at that threshold.

    `other_kinds` is 0 where the clean models are of the model's own kind. Else it says of how many
    kinds they are, perhaps with a few of its own, and `false_alarms` counts those that are above a
    threshold made without their own kind: what a kind that is not known has to expect.
    """

    p_value: float
    threshold: float
    false_alarms: Rate
    expected: float
    other_kinds: int = 0


@dataclass(frozen=True, eq=False)
class Verdict:
    """The outcome of a scan, with what it rests on.

    `reason` says why nothing was judged, else it is empty. `finding` and `alarms` are None where
    there are none; `accuracy` is that on the clean images used.
    """

    outcome: Outcome
    reason: str = ""
    finding: Finding | None = None
    alarms: Alarms | None = None
    kind: calibration.Kind | None = None
    accuracy: Rate | None = None

    @property
    def suspect(self) -> int | None:
        """The class that is suspicious; None where none is."""
        if self.outcome is not Outcome.suspicious or self.finding is None:
            return None
        return self.finding.suspect


class OutOfTimeError(Exception):
    """The budget was used up."""


def usual(model: nn.Module, known: Calibration) -> str:
    """The scanner for `model` where nobody names one: the quick one, if its scores are `known`.

    Else the one that can judge a network of a kind that is not known.
    """
    quick = build("scanner", QUICK)
    scores = calibration.known(known.kind_of(model), quick)
    return QUICK if scores and len(scores) >= FEWEST_MODELS else WIDE


def judged(
    scanner: Scanner,
    model: nn.Module,
    clean: Images,
    run: Run,
    known: Calibration,
    minutes: float | None = None,
    *,
    real: bool = True,
) -> Verdict:
    """The verdict of `scanner` on `model`, by the clean models that are `known`.

    `minutes` is the budget; without `real` images only what needs none is judged. Raises as
    `Scanner.scan`.
    """
    kind, counted = known.kind_of(model), None
    if real:
        used = drawn(clean, scanner.per_class, run.rng("scanned"))
        reason, counted = unfit(model, used, run)
        if reason:
            return Verdict(Outcome.not_judged, reason, kind=kind, accuracy=counted)
    try:
        finding = scanner.scan(model, clean, _limited(run, minutes))
    except OutOfTimeError:
        reason = f"{scanner.name()} had not ended when the budget was used up"
        return Verdict(Outcome.not_judged, reason, kind=kind, accuracy=counted)
    scores, alarms = calibration.known(kind, scanner), None
    if scores is not None and len(scores) >= FEWEST_MODELS:
        alarms = standing(finding.score, scores)
    elif scanner.compares_classes:
        alarms = elsewhere(finding.score, calibration.of_every_kind(known, scanner))
    if alarms is None:
        return Verdict(
            Outcome.not_judged, _uncalibrated(kind, scanner, scores), finding, None, kind, counted
        )
    if finding.score <= alarms.threshold and alarms.other_kinds:
        return Verdict(Outcome.not_judged, UNLIKE, finding, alarms, kind, counted)
    if finding.score <= alarms.threshold:
        return Verdict(Outcome.nothing, "", finding, alarms, kind, counted)
    if finding.change is None and real:
        finding = _with_change(finding, model, clean, run)
    return Verdict(Outcome.suspicious, "", finding, alarms, kind, counted)


def standing(score: float, clean: Sequence[float]) -> Alarms:
    """How `score` stands among the scores of `clean` models.

    The threshold is the smallest of their scores that no more than LEVEL of as many models and one
    more are expected to exceed, if the model is as they are.
    """
    ordered = sorted(clean, reverse=True)
    allowed = math.floor(LEVEL * (len(ordered) + 1) + 1e-9)
    threshold = ordered[max(0, allowed - 1)]
    above = sum(other > threshold for other in ordered)
    as_high = sum(other >= score for other in ordered)
    return Alarms(
        p_value=(1 + as_high) / (1 + len(ordered)),
        threshold=threshold,
        false_alarms=Rate(above, len(ordered)),
        expected=allowed / (1 + len(ordered)),
    )


def elsewhere(score: float, kinds: Sequence[Sequence[float]]) -> Alarms | None:
    """How `score` stands among the scores of clean models of other `kinds`; None if too few.

    The threshold is the largest score of all of them: kinds differ, and a share of models that are
    much alike promises nothing for another one. Each kind in turn is held out to count the false
    alarms: its models against the threshold of the others.
    """
    every = [value for scores in kinds for value in scores]
    if len(kinds) < FEWEST_KINDS or len(every) < FEWEST_MODELS:
        return None
    above = 0
    for place, scores in enumerate(kinds):
        rest = [value for other in (*kinds[:place], *kinds[place + 1 :]) for value in other]
        above += sum(value > max(rest) for value in scores)
    rate = Rate(above, len(every))
    found = standing(score, every)
    return replace(
        found, threshold=max(every), false_alarms=rate, expected=rate.value, other_kinds=len(kinds)
    )


def _with_change(finding: Finding, model: nn.Module, clean: Images, run: Run) -> Finding:
    """`finding` with the smallest change found that leads to its class, to be looked at.

    It plays no part in the verdict.
    """
    others = clean[clean.labels != finding.suspect].sample(PICTURED, run.rng("pictured"))
    if not len(others):
        return finding
    own = copied(model).to(run.device).eval().requires_grad_(False)
    x, label = to_float(others.pixels).to(run.device), finding.suspect
    with run.stage("change", LADDER.radii * LADDER.steps) as advance:
        found = smallest_change(own, x, LADDER, run, run.rng("change"), advance, label)
    notes = {**finding.notes, "radius": found.radius}
    return replace(finding, change=found.away, reach=float(found.shares[label]), notes=notes)


def unfit(model: nn.Module, used: Images, run: Run) -> tuple[str, Rate | None]:
    """Why a model is not judged on these images, empty if it can be; its accuracy on them."""
    classes = len(used.classes)
    if classes < 3:
        return f"with {classes} classes no class can stand out", None
    if len(used) < FEWEST_IMAGES * classes:
        return (
            f"{len(used)} clean images are too few for {classes} classes: at least "
            f"{FEWEST_IMAGES} of each are needed"
        ), None
    own = copied(model).to(run.device)
    rate = accuracy(own, used, replace(run, progress=lambda *_: None))
    if rate.interval()[0] < near_chance(classes):
        return (
            f"the accuracy on the clean images is {rate.value:.1%}, near the chance of "
            f"{1 / classes:.1%}: the images, their size, the labels or the normalisation are wrong"
        ), rate
    return "", rate


def _uncalibrated(
    kind: calibration.Kind | None, scanner: Scanner, scores: Sequence[float] | None
) -> str:
    if kind is None:
        return (
            "no clean models of this architecture, with these options and as many classes, are "
            "known, so nobody can say which score is unusual (scan --calibrate)"
        )
    if scores is None:
        return (
            f"{scanner.name()} with these parameters was not calibrated for this kind of network "
            "(scan --calibrate)"
        )
    return (
        f"only {len(scores)} clean models of this kind are known, at least {FEWEST_MODELS} are "
        "needed (scan --calibrate)"
    )


def _limited(run: Run, minutes: float | None) -> Run:
    """`run`, which stops with an `OutOfTimeError` at the first step after the budget."""
    if minutes is None:
        return run
    end = time.perf_counter() + 60 * minutes

    def progress(stage: str, done: int, total: int) -> None:
        run.progress(stage, done, total)
        if time.perf_counter() > end:
            raise OutOfTimeError

    return replace(run, progress=progress)
