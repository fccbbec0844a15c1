"""What the numbers of a record mean, in plain words: the headline, and no more than was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .rates import Share, count, percent, points, share

GONE = 0.05
"""At most this share of stamped images goes to the target: a clean model's own mistakes reach it."""
FAINT = 0.10
"""Below this a backdoor does not work; above it one is there."""
DEAR = 0.03
"""An accuracy lost that belongs in the headline."""

Tone = Literal["good", "mixed", "bad", "unknown"]


@dataclass(frozen=True)
class Verdict:
    """A headline, how it should look, and the sentences under it."""

    tone: Tone
    headline: str
    sentences: tuple[str, ...]


def verdict(record: Mapping[str, Any]) -> Verdict:
    """What a repair's (or a demo's) record says about the backdoor and the accuracy."""
    before, after = record["before"], record["after"]
    tone, headline = _backdoor(
        share(before, "asr"), share(after, "asr"), after is not None, record
    )
    lost = _change(before, after, "acc")
    if tone == "good" and lost is not None and -lost > DEAR:
        tone = "mixed"
        headline = headline.replace("gone:", f"gone, at the cost of {-100 * lost:.1f} points:", 1)
    return Verdict(tone, headline, tuple(_sentences(record)))


def goal(record: Mapping[str, Any]) -> str:
    """Where the attacker wants stamped images to go, as a sentence names it."""
    triggered = record["triggered"] or {}
    target, classes = triggered.get("target"), record["model"]["classes"]
    if isinstance(target, int):
        name = classes[target] if 0 <= target < len(classes) else str(target)
        return f"the target class, {name}" if name else "the target class"
    return "the attacker\N{RIGHT SINGLE QUOTATION MARK}s goal"


def _backdoor(
    before: Share | None, after: Share | None, repaired: bool, record: Mapping[str, Any]
) -> tuple[Tone, str]:
    if before is None or (repaired and after is None):
        why = "No stamped images were given"
        if record["triggered"] and record["triggered"]["images"]:
            why = "No stamped image could be counted"
        return "unknown", f"{why}, so whether a backdoor {'was' if repaired else 'is'} there is unknown"
    where = goal(record)
    if after is None:
        if before.value < FAINT:
            only = f"{percent(before.value)} of stamped images go to {where}"
            return "unknown", f"No working backdoor was measured: {only}"
        return "bad", f"The backdoor works: {percent(before.value)} of stamped images go to {where}"
    now = f"{percent(after.value)} of stamped images go to {where} (was {percent(before.value)})"
    still = now.replace("images go", "images still go")
    low, high = after.interval
    if low > before.interval[1]:
        return "bad", f"The backdoor works better than before: {now}"
    if before.value < FAINT:
        return "unknown", f"There was no working backdoor to remove: {now}"
    if after.value <= GONE:
        if high > FAINT:
            few = f"only {count(after.total)} stamped images were counted"
            return "mixed", f"The backdoor looks gone, but {few}: {still}"
        return "good", f"The backdoor is gone: {still}"
    if high >= before.interval[0]:
        return "bad", f"The backdoor is still there: {now}"
    if after.value < FAINT:
        return "mixed", f"The backdoor is almost gone: {still}"
    return "bad", f"The backdoor is weaker but still there: {now}"


def _change(before: Mapping[str, Any], after: Mapping[str, Any] | None, name: str) -> float | None:
    was, now = share(before, name), share(after, name)
    return now.value - was.value if was and now else None


def _sentences(record: Mapping[str, Any]) -> list[str]:
    before, after = record["before"], record["after"]
    if before == after and any(share(after, name) for name in ("acc", "asr", "ra")):
        return [_accuracy(record), "The repair changed none of the measured numbers."]
    return [text for text in (_accuracy(record), _recovered(record)) if text]


def _accuracy(record: Mapping[str, Any]) -> str:
    was, now = share(record["before"], "acc"), share(record["after"], "acc")
    on = record["acc_on"]
    if was is None:
        return "Accuracy was not measured."
    if now is None:
        return f"Accuracy on {on} is {percent(was.value)}."
    change = points(now.value - was.value)
    if change == "0.0":
        return f"Accuracy on {on} stayed at {percent(now.value)}."
    verb = "rose" if now.value > was.value else "fell"
    amount = f"{change[1:]} point{'' if change[1:] == '1.0' else 's'}"
    return f"Accuracy on {on} {verb} by {amount}, to {percent(now.value)}."


def _recovered(record: Mapping[str, Any]) -> str:
    was, now = share(record["before"], "ra"), share(record["after"], "ra")
    accuracy, attack = share(record["after"], "acc"), share(record["after"], "asr")
    if was is None or now is None:
        return ""
    text = (
        f"Of the stamped images, {percent(now.value)} now go to their true class "
        f"(was {percent(was.value)})."
    )
    if accuracy and attack and attack.value < FAINT and now.value < accuracy.value - 0.1:
        text += " The stamp no longer leads to the target, but it still confuses the model."
    return text


def limits(record: Mapping[str, Any]) -> list[str]:
    """What the record's numbers do not show, and what the method is known not to do."""
    found = []
    if share(record["before"], "asr"):
        found.append(
            "The scores hold for the trigger of the stamped images. A second backdoor with another "
            "trigger would not show in them."
        )
    else:
        found.append(
            "Without stamped images nothing here says whether the model held or holds a backdoor."
        )
    if record["test"] is None and share(record["before"], "acc"):
        found.append(
            "Accuracy was measured on a part of the given clean images that the repair did not "
            "see, not on a test set of its own."
        )
    if record["defense"]:
        found.append(f"{record['defense']['name']}: {record['defense']['limits']}")
    return found


def story(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The four steps of a demo, each a title and a sentence."""
    attack, defense = record.get("attack"), record["defense"]
    planted = f"{attack['name']} was planted in training" if attack else "A backdoor was planted"
    clean = share(record.get("clean_model"), "acc")
    if clean:
        planted += f"; the same network trained without it has {percent(clean.value)} accuracy"
    repaired = "The backdoor was not touched"
    if defense:
        silenced = sum(len(layer["silenced"]) for layer in record["layers"])
        given = count(record["clean"]["images"])
        repaired = f"{defense['name']} saw {given} clean images and silenced {count(silenced)} channels"
    return [
        ("Plant", f"{planted}."),
        ("Measure", _measured(record["before"])),
        ("Repair", f"{repaired}."),
        ("Measure again", _measured(record["after"])),
    ]


def _measured(scores: Mapping[str, Any] | None) -> str:
    acc, asr = share(scores, "acc"), share(scores, "asr")
    said = [f"{percent(asr.value)} of stamped images reach the target"] if asr else []
    said += [f"accuracy is {percent(acc.value)}"] if acc else []
    return f"{', '.join(said)}." if said else "Nothing could be measured."
