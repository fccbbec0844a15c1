"""What the page of one cell says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import pictures
from .page import Measure
from .rates import percent, points, share
from .results import HEADINGS, Row
from .words import Tone, Verdict, verdict

Shown = Sequence[Mapping[str, Any]]


def cell_context(
    row: Row, record: Mapping[str, Any], victim: Mapping[str, Any] | None, shown: Shown
) -> dict[str, Any]:
    """All that the template draws of a result, its victim and the victim's examples."""
    done = record["status"] == "done"
    return {
        "row": row,
        "record": record,
        "victim": victim or {},
        "verdict": _verdict(record, victim),
        "measures": _measures(record) if done else [],
        "beside": _beside(row),
        "strips": pictures.strips(record["layers"]) if done else [],
        "examples": _examples(record, victim, shown) if done else [],
    }


def _verdict(record: Mapping[str, Any], victim: Mapping[str, Any] | None) -> Verdict:
    if record["status"] == "failed":
        return Verdict("bad", "This cell failed", (record["error"],))
    attack = record["cell"]["victim"]["attack"]
    if attack is None:
        return _cost(record)
    target = attack.get("target")
    if attack.get("all_to_all") or isinstance(target, dict):
        target = None
    told = {
        **record,
        "acc_on": "test images",
        "triggered": {"images": record["images"]["stamped"], "target": target},
        "model": {"classes": (victim or {}).get("classes", [])},
    }
    found = verdict(told)
    ruined = _ruined(record)
    return Verdict("bad", ruined, (f"{found.headline}.", *found.sentences)) if ruined else found


def _ruined(record: Mapping[str, Any]) -> str:
    """What is to be said first of a model that a repair brought below a linear classifier."""
    was, now = share(record["before"], "acc"), share(record["after"], "acc")
    linear = share(record, "linear")
    if not was or not now or not linear or not now.value < linear.value <= was.value:
        return ""
    return (
        f"The repair destroyed the model: accuracy fell to {percent(now.value)}, "
        f"below a linear classifier’s {percent(linear.value)}"
    )


def _cost(record: Mapping[str, Any]) -> Verdict:
    """What a repair did to a model that was never attacked."""
    was, now = share(record["before"], "acc"), share(record["after"], "acc")
    if was is None or now is None:
        return Verdict("unknown", "Accuracy was not measured", ())
    change = now.value - was.value
    tone: Tone = "good" if change > -0.01 else "mixed" if change > -0.05 else "bad"
    told = f"Accuracy went from {percent(was.value)} to {percent(now.value)}."
    return Verdict(
        tone, f"A clean model: {points(change)} points of accuracy", (told, "There is no backdoor.")
    )


def _measures(record: Mapping[str, Any]) -> list[Measure]:
    before, after, right = record["before"], record["after"], "that go to their true class"
    found = [
        Measure(name.upper(), words, of, better, share(before, name), share(after, name))
        for name, words, of, better in (
            ("asr", "Attack success rate", "triggered images that go to the target", "lower"),
            ("ra", "Robust accuracy", f"triggered images {right}", "higher"),
            ("acc", "Accuracy", f"test images {right}", "higher"),
        )
    ]
    return [measure for measure in found if measure.before or measure.after]


def _beside(row: Row) -> list[tuple[str, str]]:
    """Names and texts of what a grid asked for beside ACC, ASR and RA, as far as known."""
    found = [(text, getattr(row, name)) for name, text in HEADINGS.items()]
    return [(text, percent(value)) for text, value in found if value is not None]


def _examples(
    record: Mapping[str, Any], victim: Mapping[str, Any] | None, shown: Shown
) -> list[dict[str, Any]]:
    """Each example image with the classes before and after, and what they mean."""
    if victim is None or not shown:
        return []
    classes, attack = victim["classes"], record["cell"]["victim"]["attack"]
    found = []
    for place, (example, said) in enumerate(zip(shown, record["examples"], strict=False)):
        parts = []
        for kind in example["kinds"]:
            guesses = {"before": example["said"][kind], "after": classes[said["said"][kind]]}
            goal = _goal(example["truth"], classes, attack) if kind == "stamped" else None
            parts.append(
                {
                    "shown": "triggered" if kind == "stamped" else kind,
                    "file": f"pictures/{record['victim']}-{place}-{kind}.png",
                    "guesses": [
                        (when, name, _mark(name, example["truth"], goal))
                        for when, name in guesses.items()
                    ],
                }
            )
        found.append({"truth": example["truth"], "pictures": parts})
    return found


def _mark(said: str, truth: str, goal: str | None) -> str:
    return "right" if said == truth else "goal" if said == goal else "wrong"


def _goal(truth: str, classes: Sequence[str], attack: Mapping[str, Any] | None) -> str | None:
    if attack is None:
        return None
    if attack.get("all_to_all"):
        return classes[(classes.index(truth) + 1) % len(classes)]
    target = attack["target"]
    if isinstance(target, dict):  # a label map, whose keys JSON made text
        target = target[str(classes.index(truth))]
    return str(classes[target])
