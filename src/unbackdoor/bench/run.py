"""The work of a bench: one victim, or one cell. What comes out is a result, also where it failed.

The bench holds both sides; a defense gets the model and the clean images of its budget, never the
trigger, the target or a test image.
"""

from __future__ import annotations

import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ..core import method, record
from ..core.errors import OutputError, UnbackdoorWarning
from ..core.images import overlap, to_float
from ..core.measure import Rate, Score, der
from ..core.run import Progress, Run, pick_device
from ..core.version import __version__
from ..defenses.base.defense import Defense, Repair
from ..network.layers import find_layers
from . import flags, judge, victims
from .cell import Cell, Victim
from .clean_sets import CleanSet
from .judge import Judged, judged, same_weights
from .shelf import Shelf, shelf
from .store import FORMAT, Record, Store
from .victims import Ready

SOURCE = Path(__file__).parents[2]


_LAST: dict[tuple[Path, str, int], Ready] = {}
"""The victim of the last cell of this process: mostly that of the next one, too."""


class VictimFailedError(Exception):
    """A cell that cannot be worked on, because its victim could not be planted."""


class WorkerDiedError(Exception):
    """A cell whose process was ended from outside, each time it was tried."""


def _quiet(*_: object) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class Bench:
    """Where results go and where the work is done; nothing of it changes a declaration."""

    folder: Path
    device: str = "auto"
    threads: int | None = None
    download: bool = False

    @property
    def store(self) -> Store:
        """The results."""
        return Store(self.folder)

    def finished(self, cell: Cell) -> bool:
        """Whether the cell has a result, done or failed."""
        return self.store.has("cells", cell.id)

    def victim(self, wanted: Victim, progress: Progress = _quiet) -> Record | None:
        """The record of a victim, planted now if it is not there; None if another run is at it."""
        if (found := self._known(wanted)) is not None:
            return found
        with self.store.claimed(f"victim-{wanted.id}") as ours:
            if not ours:
                return None
            if (found := self._known(wanted)) is not None:
                return found
            start = time.perf_counter()
            run, images = self._run(wanted, progress), self.shelf(wanted)
            resumed = victims.begun(self.store.victim(wanted.id))
            told = self._result(
                {"kind": "victim", "id": wanted.id, "victim": wanted.declaration()},
                lambda: self._planted(wanted, images, run),
                run,
            )
            told["spent"] = {"all": time.perf_counter() - start, "resumed": resumed}
            self.store.write("victims", wanted.id, told)
            victims.finish(self.store.victim(wanted.id))
            return told

    def cell(self, wanted: Cell, progress: Progress = _quiet) -> tuple[Record | None, bool]:
        """(the result of a cell, whether it was worked out here and now).

        The result is None if another run is at it, or at its victim.
        """
        start = time.perf_counter()
        with self.store.claimed(wanted.id) as ours:
            if not ours:
                return None, False
            if (found := self.store.read("cells", wanted.id)) is not None:
                return found, False
            victim = self.victim(wanted.victim, progress)
            planting = time.perf_counter() - start
            if victim is None:
                return None, False
            run, images = self._run(wanted.victim, progress), self.shelf(wanted.victim)
            with self.store.begun(wanted.id) as begun:
                resumed = begun.exists()
                told = self._result(
                    _heading(wanted, victim),
                    lambda: self._repaired(wanted, victim, images, replace(run, cache=begun)),
                    run,
                )
                spent = time.perf_counter() - start - planting
                told["spent"] |= {"all": spent, "resumed": resumed}
                if resumed:  # what the stopped run passed over the images is not known
                    told.get("notes", {}).pop("passes", None)
                self.store.write("cells", wanted.id, told)
            return told, True

    def died(self, wanted: Cell, reason: str) -> Record:
        """The failed result of a cell whose process does not live to tell."""

        def dead() -> Record:
            raise WorkerDiedError(reason)

        told = self._result(_heading(wanted, None), dead, Run(wanted.victim.seed))
        self.store.write("cells", wanted.id, told)
        return told

    def _known(self, wanted: Victim) -> Record | None:
        """The record of a victim that needs no planting: it failed, or its weights are there."""
        found = self.store.read("victims", wanted.id)
        there = (self.store.victim(wanted.id) / victims.MODEL).is_file()
        return found if found and (there or found["status"] == "failed") else None

    def _planted(self, wanted: Victim, images: Shelf, run: Run) -> Record:
        folder = self.store.victim(wanted.id)
        poisoned = victims.plant(wanted, images, folder, replace(run, cache=folder / victims.CACHE))
        ready = victims.load(wanted, images, folder, run)
        baseline = victims.linear_of(self.store, wanted, images)
        return victims.told(wanted, ready, images, poisoned, baseline, run)

    def _repaired(self, wanted: Cell, victim: Record, images: Shelf, run: Run) -> Record:
        if victim["status"] == "failed":
            raise VictimFailedError(victim["error"])
        defense = defense_of(wanted)
        clean = images.budget(wanted.budget, run)
        ready = self._loaded(wanted.victim, images, run)
        if wanted.clean:
            attack = victims.attack_of(wanted.victim)
            clean = CleanSet(**wanted.clean).made(clean, attack, ready.learned, run)
        baseline = victims.linear_of(self.store, wanted.victim, images)
        start = time.perf_counter()
        repair = defense.repair(ready.model, clean, run)
        between = time.perf_counter()
        after = judged(repair.model, images.test, ready.stamped, run)
        spent = {"repair": between - start, "measure": time.perf_counter() - between}
        shared = overlap(clean, images.test)
        before = _score(victim)
        weak = judge.weak(before.asr, wanted.victim.min_asr)
        theirs = [flag for flag in victim["flags"] if flag != judge.WEAK]
        own = _own_flags(defense, ready, repair, after, baseline, shared)
        return {
            "defense": record.of_method(defense),
            "after": record.of_score(after.score),
            "der": der(before, after.score),
            "linear": baseline.as_json(),
            "flags": flags.ordered([*weak, *theirs, *own]),
            "images": {**victim["images"], "clean": len(clean), "clean_in_test": shared},
            "layers": _layers(ready, repair, images),
            "notes": {name: note for name, note in repair.notes.items() if name != "seconds"},
            "examples": victims.examples(ready, repair.model, run, pictures=False),
            "spent": spent,
        }

    def shelf(self, victim: Victim) -> Shelf:
        """The images of a victim and of who repairs it."""
        run, told, classes = Run(seed=victim.seed), dict(victim.data), None
        if victim.given:
            own = victim.given["classes"]
            classes = None if own == [str(label) for label in range(len(own))] else own
            told |= {key: path for key, path in (victim.files or {}).items() if key in told}
        channels = victims.channels_of(victim)
        return shelf(told, channels, run, download=self.download, classes=classes)

    def _run(self, victim: Victim, progress: Progress) -> Run:
        device = pick_device(self.device)
        return Run(victim.seed, device, victim.precision, progress)  # type: ignore[arg-type]

    def _loaded(self, victim: Victim, images: Shelf, run: Run) -> Ready:
        folder = self.store.victim(victim.id)
        key = (folder, str(run.device), (folder / victims.MODEL).stat().st_mtime_ns)
        if key not in _LAST:
            _LAST.clear()
            _LAST[key] = victims.load(victim, images, folder, run)
        return _LAST[key]

    def _result(self, heading: Record, work: Callable[[], Record], run: Run) -> Record:
        """The result of `work`, or how it failed, and what made it."""
        started = datetime.now(UTC).isoformat(timespec="seconds")
        warned: list[str] = []
        try:
            with _warnings_into(warned):
                found = {"status": "done", **work()}
        except OutputError:  # a full disk is no result of a method
            raise
        except Exception as error:  # noqa: BLE001  whatever a method breaks on is its result
            found = {
                "status": "failed",
                "error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:500],
                "traceback": traceback.format_exc().replace(f"{SOURCE}/", ""),
                "flags": [],
            }
        return {
            "format": FORMAT,
            **heading,
            "spent": {},
            **found,
            "warnings": warned,
            "unbackdoor": __version__,
            "started": started,
            "threads": torch.get_num_threads(),
            **record.of_run(run),
        }


def defense_of(cell: Cell) -> Defense:
    """The defense of a cell."""
    table = dict(cell.defense)
    found = method.build("defense", table.pop("name"), table)
    assert isinstance(found, Defense)
    return found


def _heading(cell: Cell, victim: Record | None) -> Record:
    return {
        "kind": "cell",
        "id": cell.id,
        "victim": cell.victim.id,
        "cell": cell.declaration(),
        "before": (victim or {}).get("score"),
    }


def _own_flags(
    defense: Defense, ready: Ready, repair: Repair, after: Judged, baseline: Rate, shared: int
) -> Iterator[str]:
    yield from after.flags(baseline)
    if shared:
        yield "leak"
    if same_weights(ready.model, repair.model):
        before, now = (
            repair.notes.get(f"held_out_acc_{when}", 1.0) for when in ("before", "after")
        )
        yield "destroyed" if before - now > defense.max_acc_drop else "unchanged"


def _score(victim: Record) -> Score:
    """The score that a victim's record holds."""
    rates = victim["score"].items()
    return Score(**{name: rate and Rate(rate["hits"], rate["total"]) for name, rate in rates})


def _layers(ready: Ready, repair: Repair, images: Shelf) -> list[Record]:
    """The silenced channels of each layer; nothing where no channel was silenced."""
    if not any(bool(mask.any()) for mask in repair.silenced.values()):
        return []
    layers = find_layers(ready.model, to_float(images.test.pixels[:1]))
    channels = {layer.name: layer.channels for layer in layers}
    channels |= {name: len(mask) for name, mask in repair.silenced.items()}
    return record.of_layers(repair.silenced, {}, channels)


@contextmanager
def _warnings_into(warned: list[str]) -> Iterator[None]:
    """What methods warn of inside goes to `warned`, each text once; other warnings go on."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UnbackdoorWarning)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *more: Any, **named: Any) -> None:
            if not issubclass(category, UnbackdoorWarning):
                others(message, category, *more, **named)
            elif (text := " ".join(str(message).split())) not in warned:
                warned.append(text)

        warnings.showwarning = show
        yield
