"""What the numbers of a record mean, in plain words, and no more than was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .rates import MINUS, Share, count, percent, points, share

GONE = 0.05
"""A clean model's own mistakes send this share of triggered images to the target, at most."""
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
    tone, claim, detail = _backdoor(record, share(before, "asr"), share(after, "asr"))
    change = _change(before, after, "acc")
    if tone == "good" and change is not None and change < -DEAR:
        tone, claim = "mixed", f"{claim}, at the cost of {_amount(change)} of accuracy"
    return Verdict(tone, f"{claim}{detail and ': '}{detail}", tuple(_sentences(record)))


def goal(record: Mapping[str, Any]) -> str:
    """Where the attacker wants triggered images to go, as a sentence names it."""
    triggered = record["triggered"] or {}
    target, classes = triggered.get("target"), record["model"]["classes"]
    if isinstance(target, int):
        name = classes[target] if 0 <= target < len(classes) else target
        return f"the target class “{name}”"
    return "the attacker’s goal"


def _backdoor(
    record: Mapping[str, Any], before: Share | None, after: Share | None
) -> tuple[Tone, str, str]:
    if before is None or (record["after"] is not None and after is None):
        return "unknown", _unmeasured(record), ""
    if after is None:
        claim = "No working backdoor was measured" if before.value < FAINT else "The backdoor works"
        return "unknown" if before.value < FAINT else "bad", claim, _going(record, before)
    was = f" (was {percent(before.value)})"
    now, still = _going(record, after) + was, _going(record, after, " still") + was
    low, high = after.interval
    if low > before.interval[1]:
        return "bad", "The backdoor works better than before", now
    if before.value < FAINT:
        return "unknown", "There was no working backdoor to remove", now
    if after.value <= GONE and high <= FAINT:
        return "good", "The backdoor is gone", still
    if after.value <= GONE:
        few = (
            f"The backdoor looks gone, but only {count(after.total)} triggered images were counted"
        )
        return "mixed", few, still
    if high >= before.interval[0]:
        return "bad", "The backdoor is still there", now
    if after.value < FAINT:
        return "mixed", "The backdoor is almost gone", still
    return "bad", "The backdoor is weaker but still there", now


def _unmeasured(record: Mapping[str, Any]) -> str:
    given = record["triggered"] and record["triggered"]["images"]
    why = "No triggered image could be counted" if given else "No triggered images were given"
    tense = "is" if record["after"] is None else "was"
    return f"{why}, so whether a backdoor {tense} there is unknown"


def _going(record: Mapping[str, Any], attack: Share, still: str = "") -> str:
    if not attack.hits:
        return f"none of {count(attack.total)} triggered images goes to {goal(record)}"
    return f"{percent(attack.value)} of triggered images{still} go to {goal(record)}"


def _amount(change: float) -> str:
    text = points(change).lstrip(f"+{MINUS}")
    return f"{text} point{'' if text == '1.0' else 's'}"


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
    change = now.value - was.value
    if points(change) == "0.0":
        return f"Accuracy on {on} stayed at {percent(now.value)}."
    verb = "rose" if change > 0 else "fell"
    return f"Accuracy on {on} {verb} by {_amount(change)}, to {percent(now.value)}."


def _recovered(record: Mapping[str, Any]) -> str:
    was, now = share(record["before"], "ra"), share(record["after"], "ra")
    accuracy, attack = share(record["after"], "acc"), share(record["after"], "asr")
    if was is None or now is None:
        return ""
    text = (
        f"Of the triggered images, {percent(now.value)} now go to their true class "
        f"(was {percent(was.value)})."
    )
    if accuracy and attack and attack.value < FAINT and now.value < accuracy.value - 0.1:
        text += " The trigger no longer leads to the target, but it still confuses the model."
    return text


def limits(record: Mapping[str, Any]) -> list[str]:
    """What the record's numbers do not show, and what the method is known not to do."""
    found = []
    if share(record["before"], "asr"):
        found.append(
            "The scores hold for the trigger that was tested. A second backdoor with another "
            "trigger would not show in them."
        )
    else:
        found.append(
            "Without triggered images nothing here says whether the model held or holds a backdoor."
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
    planted = "A backdoor was planted in training" + (f" ({attack['name']})" if attack else "")
    clean = share(record.get("clean_model"), "acc")
    if clean:
        planted += f"; the same network trained without it has {percent(clean.value)} accuracy"
    repaired = "The model was left as it was"
    if defense:
        silenced = sum(len(layer["silenced"]) for layer in record["layers"])
        given = record["clean"]["images"] - record["clean"]["held_out"]
        repaired = f"From {count(given)} clean images, {defense['name']} repaired the model"
        repaired += f" and silenced {count(silenced)} channels" if silenced else ""
    return [
        ("Plant", f"{planted}."),
        ("Measure", _measured(record["before"])),
        ("Repair", f"{repaired}."),
        ("Measure again", _measured(record["after"])),
    ]


def _measured(scores: Mapping[str, Any] | None) -> str:
    acc, asr = share(scores, "acc"), share(scores, "asr")
    said = [f"{percent(asr.value)} of triggered images reach the target"] if asr else []
    said += [f"accuracy is {percent(acc.value)}"] if acc else []
    return f"{'; '.join(said)}." if said else "Nothing could be measured."
