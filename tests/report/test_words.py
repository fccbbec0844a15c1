from typing import Any

import pytest

from report import samples
from report.samples import record, scores
from unbackdoor.report.words import limits, story, verdict

CASES = [
    ((117, 9000), "good", "The backdoor is gone: 1.3 % of triggered images still go to the target"),
    ((0, 9000), "good", "The backdoor is gone: none of 9,000 triggered images goes to the target"),
    ((0, 10), "mixed", "The backdoor looks gone, but only 10 triggered images were counted: none"),
    ((700, 9000), "mixed", "The backdoor is almost gone: 7.8 % of triggered images still go"),
    ((3600, 9000), "bad", "The backdoor is weaker but still there: 40.0 % of triggered images go"),
    ((8880, 9000), "bad", "The backdoor is still there: 98.7 % of triggered images go"),
    ((8999, 9000), "bad", "The backdoor works better than before: > 99.9 % of triggered images go"),
]


def told(**changes: Any) -> tuple[str, str]:
    found = verdict(record(**changes))
    return found.tone, found.headline.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(("asr", "tone", "headline"), CASES)
def test_the_headline_follows_the_attack_rate(
    asr: tuple[int, int], tone: str, headline: str
) -> None:
    said = told(after=scores(asr=asr))
    assert said[0] == tone
    assert said[1].startswith(headline)
    assert said[1].endswith("the target class “airplane” (was 98.7 %)")


def test_a_loss_of_accuracy_reaches_the_headline() -> None:
    tone, headline = told(after=scores((8682, 10_000), (117, 9000), (7000, 9000)))
    assert tone == "mixed"
    assert headline.startswith("The backdoor is gone, at the cost of 7.3 points of accuracy: 1.3 %")


def test_a_model_without_a_working_backdoor_is_not_called_repaired() -> None:
    assert told(before=scores(asr=(90, 9000)), after=scores(asr=(80, 9000))) == (
        "unknown",
        "There was no working backdoor to remove: 0.9 % of triggered images go to the target class "
        "“airplane” (was 1.0 %)",
    )


def test_without_stamped_images_nothing_is_claimed() -> None:
    made = samples.unstamped()
    assert verdict(made).headline == (
        "No triggered images were given, so whether a backdoor was there is unknown"
    )
    assert verdict(made).tone == "unknown"
    assert any("Without triggered images" in limit for limit in limits(made))
    assert any("a part of the given clean images" in limit for limit in limits(made))
    nobody = scores(asr=(0, 0), ra=(0, 0))
    assert told(before=nobody, after=nobody)[1].startswith("No triggered image could be counted")


def test_a_model_that_was_only_measured() -> None:
    assert told(after=None)[1].startswith("The backdoor works: 98.7 %")
    assert told(before=scores(asr=(9, 9000)), after=None)[1].startswith("No working backdoor was")
    assert verdict(samples.empty()).headline.endswith("whether a backdoor is there is unknown")


def test_all_to_all_has_a_goal_and_no_target() -> None:
    for target in ("all-to-all", None):
        made = record()
        made["triggered"]["target"] = target
        assert "go to the attacker’s goal" in verdict(made).headline


@pytest.mark.parametrize(
    ("hits", "text"),
    [
        (9312, "Accuracy on test images fell by 1.0 point, to"),
        (9212, "Accuracy on test images fell by 2.0 points, to"),
        (9612, "Accuracy on test images rose by 2.0 points, to"),
        (9412, "Accuracy on test images stayed at"),
    ],
)
def test_accuracy_in_words(hits: int, text: str) -> None:
    assert verdict(record(after=scores((hits, 10_000), (117, 9000)))).sentences[0].startswith(text)


def test_a_repair_that_changed_nothing_says_so() -> None:
    assert verdict(samples.unchanged()).sentences[-1] == (
        "The repair changed none of the measured numbers."
    )


def test_a_stamp_that_still_confuses_is_told() -> None:
    confused = scores((9400, 10_000), (90, 9000), (4500, 9000))
    assert "still confuses the model" in verdict(record(after=confused)).sentences[-1]
    assert "still confuses" not in verdict(record()).sentences[-1]


def test_the_demo_tells_four_steps() -> None:
    steps = story(samples.demo())
    assert [title for title, _ in steps] == ["Plant", "Measure", "Repair", "Measure again"]
    assert "98.3\N{NO-BREAK SPACE}% accuracy" in steps[0][1]
    assert "4,500 clean images" in steps[2][1]
