"""The verdict: when a score is unusual, and when nothing is judged."""

from __future__ import annotations

import json
import math

import pytest
import torch

from unbackdoor.core.errors import ParameterError
from unbackdoor.core.images import Images
from unbackdoor.core.run import Run
from unbackdoor.core.spec import Spec
from unbackdoor.models import create
from unbackdoor.scanners.base import calibration, verdict
from unbackdoor.scanners.base.scanner import Finding, Scanner
from unbackdoor.scanners.base.verdict import Outcome, judged, standing

CLASSES = ("a", "b", "c", "d")


class Fixed(Scanner):
    """Finds the same in every model."""

    paper = "of this test alone"
    limits = "sees nothing at all"
    statistic = "a number that is given"
    score: float = 1.0

    def look(self, model, clean, run):
        with run.stage("looking", 2) as advance:
            advance(1)
            advance(1)
        return Finding(torch.arange(4.0), self.score)


def network(width=2, classes=CLASSES):
    """A network that is right about the images below: it looks at nothing but its bias."""
    model = create(Spec("preact_resnet18", classes, (0.5,) * 3, (0.2,) * 3, {"width": width}))
    with torch.no_grad():
        model.net.linear.weight.zero_()
        model.net.linear.bias.copy_(torch.arange(len(classes)))
    return model


def images(each=20, label=3):
    n = each * len(CLASSES)
    pixels = torch.zeros(n, 3, 16, 16, dtype=torch.uint8)
    labels = torch.full((n,), label)
    labels[0] = 1  # so that there is an image of another class
    return Images(pixels, labels, CLASSES)


def known(scores, scanner, width=2):
    return calibration.made(network(width), {scanner: scores}, "of this test")


def verdict_of(score, scores, scanner=None, model=None, clean=None, **more):
    scanner = scanner or Fixed(score=score, per_class=100)
    return judged(
        scanner, model or network(), clean or images(), Run(), known(scores, scanner), **more
    )


def test_a_score_above_all_clean_models_is_suspicious():
    found = verdict_of(5.0, [1.0] * 10 + [2.0] * 10)
    assert found.outcome is Outcome.suspicious and found.suspect == 3
    assert found.alarms.p_value == pytest.approx(1 / 21)
    assert found.alarms.threshold == 2.0
    assert (found.alarms.false_alarms.hits, found.alarms.false_alarms.total) == (0, 20)
    assert found.alarms.expected == pytest.approx(1 / 21)
    # The change that leads there is looked for, to be shown.
    assert found.finding.change is not None and found.finding.change.shape == (3, 16, 16)


def test_a_score_like_those_of_clean_models_is_not():
    found = verdict_of(2.0, [1.0] * 10 + [2.0] * 10)
    assert found.outcome is Outcome.nothing and found.suspect is None
    assert found.finding.change is None


def test_the_threshold_lets_one_in_twenty_through():
    clean = [float(i) for i in range(99)]
    assert standing(94.5, clean).p_value == pytest.approx(5 / 100)
    assert standing(94.5, clean).threshold == 94.0  # four clean models are above it
    assert standing(94.5, clean).false_alarms.hits == 4
    assert standing(94.0, clean).p_value > 0.05


def test_the_alarms_of_new_clean_models_are_as_rare_as_expected():
    rng = torch.Generator().manual_seed(0)
    scores = torch.randn(4000, 40, generator=rng)
    alarms = [float(row[0]) > standing(float(row[0]), row[1:].tolist()).threshold for row in scores]
    assert sum(alarms) / len(alarms) == pytest.approx(0.05, abs=0.012)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"scores": [1.0] * 18}, "only 18 clean models"),
        ({"model": network(4)}, "no clean models of this architecture"),
        ({"clean": images(5)}, "20 clean images are too few"),
        ({"clean": images(label=0)}, "near the chance"),
        ({"minutes": 1e-9}, "had not ended when the budget was used up"),
    ],
)
def test_nothing_is_judged_without_what_it_takes(changed, reason):
    given = {"score": 5.0, "scores": [1.0] * 20, **changed}
    found = verdict_of(**given)
    assert found.outcome is Outcome.not_judged and reason in found.reason
    assert found.suspect is None and found.alarms is None


class Comparing(Fixed):
    """A scanner whose score only compares the classes of a model."""

    compares_classes = True


def others(*kinds, scanner):
    """A calibration of networks that are not of the kind of `network()`."""
    found = [
        calibration.made(network(4 + place), {scanner: list(scores)}, "of this test").kinds[0]
        for place, scores in enumerate(kinds)
    ]
    return calibration.Calibration(format=1, kinds=found)


def test_an_unknown_kind_is_compared_with_others_where_a_score_compares_classes():
    kinds = [[1.0] * 10, [1.0] * 10, [1.0] * 9 + [4.0]]
    scanner = Comparing(score=5.0, per_class=100)
    found = judged(scanner, network(), images(), Run(), others(*kinds, scanner=scanner))
    assert found.outcome is Outcome.suspicious and found.alarms.other_kinds == 3
    # Of the third kind one model is above the threshold of the other two; nothing else is.
    assert (found.alarms.false_alarms.hits, found.alarms.false_alarms.total) == (1, 30)
    assert found.alarms.expected == pytest.approx(1 / 30)
    # A fortieth of many models alike is rare among them; a kind that is not known may be like it.
    many = [[1.0] * 20, [1.0] * 20, [1.0] * 19 + [4.0]]
    scanner = Comparing(score=3.0, per_class=100)
    between = judged(scanner, network(), images(), Run(), others(*many, scanner=scanner))
    assert between.outcome is Outcome.not_judged and between.alarms.threshold == 4.0
    below = judged(
        Comparing(score=1.0, per_class=100),
        network(),
        images(),
        Run(),
        others(*kinds, scanner=Comparing(score=1.0, per_class=100)),
    )
    assert below.outcome is Outcome.not_judged and "other kinds" in below.reason


@pytest.mark.parametrize(
    ("cls", "kinds"), [(Fixed, [[1.0] * 10] * 3), (Comparing, [[1.0] * 20] * 2)]
)
def test_other_scores_and_too_few_kinds_judge_no_unknown_kind(cls, kinds):
    scanner = cls(score=5.0, per_class=100)
    found = judged(scanner, network(), images(), Run(), others(*kinds, scanner=scanner))
    assert found.outcome is Outcome.not_judged and found.alarms is None


def test_its_own_kind_comes_first():
    scanner = Comparing(score=5.0, per_class=100)
    known_ = others(*[[1.0] * 10] * 3, scanner=scanner)
    both = calibration.Calibration(
        format=1, kinds=[*known_.kinds, *known([9.0] * 20, scanner).kinds]
    )
    found = judged(scanner, network(), images(), Run(), both)
    assert found.outcome is Outcome.nothing and found.alarms.other_kinds == 0


def test_few_classes_are_near_chance_by_the_rule_of_all_commands():
    clean = images()
    clean.labels[:36] = torch.arange(36) % 3  # 44 of 80 right: surely above 40 %, not above 50
    assert verdict_of(5.0, [1.0] * 20, clean=clean).outcome is Outcome.suspicious


def test_two_classes_are_not_judged():
    pixels = torch.zeros(60, 3, 16, 16, dtype=torch.uint8)
    two = Images(pixels, torch.ones(60, dtype=torch.int64), ("a", "b"))
    found = verdict_of(5.0, [1.0] * 20, model=network(2, ("a", "b")), clean=two)
    assert found.outcome is Outcome.not_judged and "2 classes" in found.reason


def test_other_parameters_than_the_calibrated_ones_are_not_judged():
    scanner = Fixed(score=5.0, per_class=100)
    other = known([1.0] * 20, Fixed(score=5.0, per_class=50))
    found = judged(scanner, network(), images(), Run(), other)
    assert found.outcome is Outcome.not_judged and "with these parameters" in found.reason


def test_the_package_brings_a_calibration_that_reads():
    found = calibration.shipped()
    for kind in found.kinds:
        for scores in kind.scanners.values():
            assert len(scores.scores) >= 1
            assert scores.declaration["name"]


def test_a_calibration_is_read_as_it_was_made(tmp_path):
    made = known([1.0, math.pi, -1e-9], Fixed())
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(made.model_dump(mode="json")))
    assert calibration.read(path) == made
    assert calibration.known(calibration.read(path).kind_of(network()), Fixed()) == sorted(
        [1.0, math.pi, -1e-9]
    )


GOOD = {
    "format": 1,
    "kinds": [
        {
            "arch": "x",
            "options": {},
            "classes": 3,
            "models": "m",
            "scanners": {"latent": {"declaration": {"name": "latent"}, "scores": [1.0]}},
        }
    ],
}


def spoiled(path, value):
    told = json.loads(json.dumps(GOOD))
    place = told
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(told)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{" * 10_000,
        "[" * 100_000,
        '{"format": 1}',
        "\x00\xff",
        spoiled(["format"], 2),
        spoiled(["more"], 1),
        spoiled(["kinds", 0, "classes"], "3"),
        spoiled(["kinds", 0, "classes"], -1),
        spoiled(["kinds", 0, "arch"], "a" * 1000),
        spoiled(["kinds", 0, "arch"], "\x1b[31m" * 100),
        spoiled(["kinds", 0, "scanners", "latent", "scores"], []),
        spoiled(["kinds", 0, "scanners", "latent", "scores"], ["1"]),
        spoiled(["kinds", 0, "scanners", "latent", "scores"], [float("nan")]),
        spoiled(["kinds", 0, "scanners", "latent", "scores"], [float("inf")]),
        spoiled(["kinds", 0, "scanners", "latent", "scores", 0], True),
    ],
)
def test_what_is_no_calibration_is_refused_on_one_line(text, tmp_path):
    path = tmp_path / "calibration.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ParameterError) as refused:
        calibration.read(path)
    said = str(refused.value)
    assert "\n" not in said and "\x1b" not in said and len(said) < 700 and "calibration" in said


def test_a_huge_calibration_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(GOOD))
    calibration.read(path)
    monkeypatch.setattr(calibration, "LARGEST", 10)
    with pytest.raises(ParameterError, match="too large"):
        calibration.read(path)
    with pytest.raises(ParameterError, match="cannot be read"):
        calibration.read(tmp_path / "none.json")


def test_a_verdict_never_says_clean():
    assert [str(outcome) for outcome in verdict.Outcome] == [
        "no sign of a backdoor found",
        "suspicious",
        "not judged",
    ]
