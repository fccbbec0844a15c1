"""How well scanners tell backdoored models from clean ones: ROC curve, AUC, and the right class."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, median
from typing import Any

from ..bench.store import Record
from .card import escaped
from .names import Names
from .rates import Share, budget, duration, literal

FALSE_ALARMS = 0.01
"""The rate of false alarms at which detections are counted."""
DASH = "\N{EN DASH}"
COLUMNS = (
    *("data", "network", "scanner", "clean images", "missed", "AUC", "found", "right class"),
    *("weak ones found", "clean models", "time", "failed", "missing"),
)


@dataclass(frozen=True)
class Look:
    """What one scanner said of one model; `target` is None where the model has no one target."""

    id: str
    place: tuple[str, str, str, float]
    """Its data set, network, scanner and clean images."""
    attack: str
    seed: int
    attacked: bool
    status: str
    score: float = math.nan
    suspect: int | None = None
    target: int | None = None
    weak: bool = False
    seconds: float = math.nan


@dataclass(frozen=True)
class Detection:
    """A scanner on the models of one network and data set."""

    place: tuple[str, str, str, float]
    looks: Sequence[Look]

    @property
    def clean(self) -> list[float]:
        """The scores of clean models, the highest first."""
        return sorted((look.score for look in self._done if not look.attacked), reverse=True)

    @property
    def backdoored(self) -> list[Look]:
        """The models with a backdoor that works."""
        return [look for look in self._done if look.attacked and not look.weak]

    @property
    def _done(self) -> list[Look]:
        return [look for look in self.looks if look.status == "done"]

    @property
    def threshold(self) -> float:
        """The lowest score that at most `FALSE_ALARMS` of the clean models exceed."""
        return self.clean[math.floor(FALSE_ALARMS * len(self.clean))] if self.clean else math.inf

    def hit(self, look: Look) -> bool:
        """Whether a model is found at that rate of false alarms."""
        return look.score > self.threshold

    @property
    def found(self) -> Share | None:
        """How many of the backdoored models are found; None where nothing can be compared."""
        return self._share(self.backdoored)

    @property
    def weak(self) -> Share | None:
        """The same of the models whose backdoor hardly works."""
        return self._share([look for look in self._done if look.attacked and look.weak])

    def _share(self, looks: Sequence[Look]) -> Share | None:
        if not looks or not self.clean:
            return None
        return Share(sum(self.hit(look) for look in looks), len(looks))

    @property
    def right(self) -> Share | None:
        """Of the models that were found and have one target, those whose class is the target."""
        aimed = [look for look in self.backdoored if self.hit(look) and look.target is not None]
        hits = sum(look.suspect == look.target for look in aimed)
        return Share(hits, len(aimed)) if aimed else None

    @property
    def auc(self) -> float | None:
        """The chance that a backdoored model scores higher than a clean one; a tie is half."""
        bad, clean = [look.score for look in self.backdoored], self.clean
        if not bad or not clean:
            return None
        wins = sum((b > c) + 0.5 * (b == c) for b in bad for c in clean)
        return wins / (len(bad) * len(clean))

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the AUC."""
        return auc_interval(self.auc or 0.0, len(self.backdoored), len(self.clean))

    @property
    def roc(self) -> list[tuple[float, float]]:
        """(share of the clean models, share of the backdoored ones) above each threshold."""
        bad, clean = [look.score for look in self.backdoored], self.clean
        points = [(0.0, 0.0)]
        for score in sorted({*bad, *clean}, reverse=True):
            alarms = sum(other >= score for other in clean) / len(clean)
            points.append((alarms, sum(other >= score for other in bad) / len(bad)))
        return points

    def count(self, status: str) -> int:
        """How many looks ended so."""
        return sum(look.status == status for look in self.looks)


def auc_interval(auc: float, bad: int, clean: int) -> tuple[float, float]:
    """The 95 % interval of an AUC from so many models of each sort.

    Method 5 of Newcombe 2006 (Statistics in Medicine 25): the values whose own standard error
    (Hanley & McNeil 1982) reaches the one measured; an AUC of 1 has an interval, too.
    """
    z, other = NormalDist().inv_cdf(0.975), (bad + clean) / 2 - 1

    def reaches(value: float) -> bool:
        spread = 1 + other * (1 - value) / (2 - value) + other * value / (1 + value)
        error = math.sqrt(max(0.0, value * (1 - value) * spread / (bad * clean)))
        return abs(auc - value) <= z * error

    return _edge(reaches, auc, 0.0), _edge(reaches, auc, 1.0)


def _edge(reaches: Any, inside: float, outside: float) -> float:
    """Where `reaches` ends between a value that is reached and one that is not, by halving."""
    # At the very ends the error is 0: start just inside.
    end = abs(outside - 1e-12)
    if inside == outside or reaches(end):
        return outside
    for _ in range(60):
        middle = (inside + end) / 2
        inside, end = (middle, end) if reaches(middle) else (inside, middle)
    return inside


def detections(
    declared: Mapping[str, Record],
    scans: Mapping[str, Record],
    victims: Mapping[str, Record],
    names: Names,
) -> list[Detection]:
    """A `Detection` for each scanner on each network and data set, worst first."""
    labels = _labels([told["scanner"] for told in declared.values()])
    places: dict[tuple[str, str, str, float], list[Look]] = {}
    for name, told in declared.items():
        look = _look(name, told, scans.get(name), victims, names, labels)
        places.setdefault(look.place, []).append(look)
    found = [Detection(place, looks) for place, looks in places.items()]
    return sorted(found, key=lambda one: (one.place[0], one.auc if one.auc is not None else -1))


def _look(
    name: str,
    told: Record,
    record: Record | None,
    victims: Mapping[str, Record],
    names: Names,
    labels: Mapping[str, str],
) -> Look:
    victim = names.of_victim(told["victim"])
    place = (victim["data"], victim["arch"], labels[_key(told["scanner"])], told["budget"])
    attack = told["victim"]["attack"] or {}
    base = Look(
        name, place, victim["attack"], told["victim"]["seed"], bool(attack), "missing"
    ).__dict__
    if record is None:
        return Look(**base)
    if record["status"] == "failed":
        return Look(**{**base, "status": "failed"})
    flags = victims.get(record["victim"], {}).get("flags", ())
    one = not attack.get("all_to_all") and isinstance(attack.get("target"), int)
    return Look(
        **{
            **base,
            "status": "done",
            "score": float(record["score"]),
            "suspect": int(record["suspect"]),
            "target": attack["target"] if one else None,
            "weak": "weak-victim" in flags,
            "seconds": float(record["spent"]["scan"]),
        }
    )


def _labels(tables: Iterable[Record]) -> dict[str, str]:
    """What each scanner is called: its name, and what tells it from others of that name."""
    every = {_key(table): table for table in tables}
    found = {}
    for key, table in every.items():
        others = [other for other in every.values() if other["name"] == table["name"]]
        apart = (
            f" {name}={literal(value)}"
            for name, value in table.items()
            if name != "name" and any(other.get(name) != value for other in others)
        )
        found[key] = table["name"] + "".join(apart)
    return found


def _key(table: Record) -> str:
    return literal(dict(sorted(table.items())))


def table(found: Sequence[Detection]) -> list[list[str]]:
    """A heading and a line for each detection; missed models come before those that were found."""
    return [list(COLUMNS), *(_line(one) for one in found)]


def _line(one: Detection) -> list[str]:
    data, arch, scanner, images = one.place
    seconds = [look.seconds for look in one.looks if look.status == "done"]
    low, high = one.interval
    return [
        *(data, arch, scanner, budget(images)),
        DASH if one.found is None else f"{one.found.total - one.found.hits} of {one.found.total}",
        DASH if one.auc is None else f"{one.auc:.2f} ({low:.2f} to {high:.2f})",
        *(_shown(one.found), _shown(one.right), _shown(one.weak)),
        str(len(one.clean)),
        duration(median(seconds)) if seconds else DASH,
        *(str(one.count(status)) for status in ("failed", "missing")),
    ]


def _shown(share: Share | None) -> str:
    if share is None:
        return DASH
    low, high = share.interval
    return f"{share.hits} of {share.total} ({100 * low:.0f} to {100 * high:.0f} %)"


def markdown(found: Sequence[Detection]) -> str:
    """The table as markdown; empty where nothing was scanned."""
    if not found:
        return ""
    head, *lines = table(found)
    every = [head, ["---"] * len(head), *([escaped(part) for part in own] for own in lines)]
    return "".join(f"| {' | '.join(line)} |\n" for line in every)
