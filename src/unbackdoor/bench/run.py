"""The work of a bench: one victim, or one cell. What comes out is a result, also where it failed.

The bench holds both sides; a defense gets the model and the clean images of its budget, never the
trigger, the target or a test image.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from ..core import record
from ..core.images import Images, overlap
from ..core.measure import der
from ..core.run import Progress, Run, pick_device
from ..defenses.base.defense import Defense
from . import asked, controls, flags, judge, outcome, scans, victims
from .cell import Cell, Scan, Victim
from .clean_sets import CleanSet
from .controls import Control
from .judge import judged
from .shelf import Shelf, shelf
from .store import Record, Store
from .victims import Ready

_LAST: dict[tuple[Path, str, int], Ready] = {}
"""The victim of the last cell of this process: mostly that of the next one, too."""


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
        """Whether the cell has a result, failed or with all measures that the grid asks for."""
        return asked.finished(self.store, cell)

    def victim(self, wanted: Victim, progress: Progress = _quiet) -> Record | None:
        """The record of a victim, planted and measured now as far as it is not there.

        None if another run is at it, or at the clean model that it needs.
        """
        if (found := self._known(wanted)) is not None:
            return found
        base = self.victim(wanted.needs, progress) if wanted.needs else None
        if wanted.needs and base is None:
            return None
        with self.store.claimed(f"victim-{wanted.id}") as ours:
            if not ours:
                return None
            if (found := self._known(wanted)) is not None:
                return found
            run, images = self._run(wanted, progress), self.shelf(wanted)
            told = self._planted_before(wanted) or self._plant(wanted, base, images, run)
            if (lacking := asked.of_victim(wanted, told)) and told["status"] == "done":
                self._measure_clean(wanted, told, base, lacking, images, run)
            return told

    def cell(self, wanted: Cell, progress: Progress = _quiet) -> tuple[Record | None, bool]:
        """(the result of a cell, whether it was worked out here and now).

        The result is None if another run is at it, or at its victim.
        """
        start = time.perf_counter()
        with self.store.claimed(wanted.id) as ours:
            if not ours:
                return None, False
            found = self.store.read(wanted.kind, wanted.id)
            if found is not None and self.finished(wanted):
                return found, False
            victim = self.victim(wanted.victim, progress)
            if wanted.follows and victim and self.cell(wanted.follows, progress)[0] is None:
                return None, False
            planting = time.perf_counter() - start
            if victim is None:
                return None, False
            run, images = self._run(wanted.victim, progress), self.shelf(wanted.victim)
            if found is not None:
                lacking = set(asked.of_cell(wanted, found))
                if lacking <= asked.FROM_RECORD:  # no repaired model is needed for these
                    self._add(wanted, found, lacking, images, run)
                    return found, bool(lacking)
            with self.store.begun(wanted.id) as begun:
                resumed = begun.exists()
                told = outcome.of(
                    outcome.heading(wanted, victim),
                    lambda: self._worked(wanted, victim, images, replace(run, cache=begun)),
                    run,
                )
                spent = time.perf_counter() - start - planting
                told["spent"] |= {"all": spent, "resumed": resumed}
                if resumed:  # what the stopped run passed over the images is not known
                    for note in ("passes", "passes_back"):
                        told.get("notes", {}).pop(note, None)
                self.store.write(wanted.kind, wanted.id, told)
            return told, True

    def died(self, wanted: Cell, reason: str) -> Record:
        """The failed result of a cell whose process does not live to tell."""

        def dead() -> Record:
            raise outcome.WorkerDiedError(reason)

        told = outcome.of(outcome.heading(wanted, None), dead, Run(wanted.victim.seed))
        self.store.write(wanted.kind, wanted.id, told)
        return told

    def _known(self, wanted: Victim) -> Record | None:
        """The record of a victim that nothing is to be done for."""
        found = self._planted_before(wanted)
        done = found and found["status"] == "done"
        return None if found and done and asked.of_victim(wanted, found) else found

    def _planted_before(self, wanted: Victim) -> Record | None:
        """The record of a victim that needs no planting: it failed, or its weights are there."""
        found = self.store.read("victims", wanted.id)
        there = (self.store.victim(wanted.id) / victims.MODEL).is_file()
        return found if found and (there or found["status"] == "failed") else None

    def _plant(self, wanted: Victim, base: Record | None, images: Shelf, run: Run) -> Record:
        start = time.perf_counter()
        folder = self.store.victim(wanted.id)
        resumed = victims.begun(folder)

        def work() -> Record:
            if wanted.start and base and base["status"] == "failed":
                raise outcome.VictimFailedError(f"the clean model failed: {base['error']}")
            return self._planted(wanted, images, run)

        head = {"kind": "victim", "id": wanted.id, "victim": wanted.declaration()}
        told = outcome.of(head, work, run)
        told["spent"] = {"all": time.perf_counter() - start, "resumed": resumed}
        self.store.write("victims", wanted.id, told)
        victims.finish(folder)
        return told

    def _measure_clean(
        self,
        wanted: Victim,
        told: Record,
        base: Record | None,
        lacking: list[str],
        images: Shelf,
        run: Run,
    ) -> None:
        """Adds to a victim's record what its clean model does with its trigger."""
        clean = wanted.clean
        assert clean is not None
        before = told.get("measures", {})
        if before.get("clean_model") != clean.id:
            before = {"clean_model": clean.id}
        found: Record = dict.fromkeys(lacking)
        if base and base["status"] == "done":
            model = victims.model_of(clean, self.store.victim(clean.id)).to(run.device)
            probe = victims.probe(wanted, self._loaded(wanted, images, run), images, run)
            with outcome.warnings_into(told["warnings"]):
                found = probe.of_clean(model, lacking)
        told["measures"] = {**before, **found}
        self.store.write("victims", wanted.id, told)

    def _add(self, wanted: Cell, told: Record, lacking: set[str], images: Shelf, run: Run) -> None:
        """Adds to a cell's record what can be measured without its repaired model."""
        if lacking:
            with outcome.warnings_into(told["warnings"]):
                pruned = outcome.pruned(told)
                found = self._measures(wanted, sorted(lacking), None, pruned, images, run)
            told["measures"] = {**told.get("measures", {}), **found}
            self.store.write(wanted.kind, wanted.id, told)

    def _measures(
        self,
        wanted: Cell,
        names: list[str],
        repaired: nn.Module | None,
        layers: list[Record],
        images: Shelf,
        run: Run,
    ) -> Record:
        ready = self._loaded(wanted.victim, images, run)
        clean = None
        if "agreement" in names and (fine := wanted.victim.clean):
            clean = victims.model_of(fine, self.store.victim(fine.id)).to(run.device)
        probe = victims.probe(wanted.victim, ready, images, run, clean)
        return probe.of_repaired(repaired, layers, names)

    def _planted(self, wanted: Victim, images: Shelf, run: Run) -> Record:
        folder = self.store.victim(wanted.id)
        poisoned = victims.plant(wanted, images, folder, replace(run, cache=folder / victims.CACHE))
        ready = victims.load(wanted, images, folder, run)
        baseline = victims.linear_of(self.store, wanted, images)
        return victims.told(wanted, ready, images, poisoned, baseline, run)

    def _worked(self, wanted: Cell, victim: Record, images: Shelf, run: Run) -> Record:
        if victim["status"] == "failed":
            raise outcome.VictimFailedError(victim["error"])
        clean = self._drawn(wanted, images, run)
        ready = self._loaded(wanted.victim, images, run)
        if isinstance(wanted, Scan):
            return scans.looked(wanted, ready.model, clean, run)
        return self._repaired(wanted, victim, ready, clean, images, run)

    def _drawn(self, wanted: Cell, images: Shelf, run: Run) -> Images:
        """The images of the budget, before anything is done to them."""
        pool = None
        if wanted.clean:
            pool = CleanSet(**wanted.clean).pool(images, wanted.source, download=self.download)
        return images.budget(wanted.budget, run, pool)

    def _repaired(
        self, wanted: Cell, victim: Record, ready: Ready, clean: Images, images: Shelf, run: Run
    ) -> Record:
        defense = controls.build(wanted.defense)
        shared = overlap(clean, images.test)  # a test image that is blurred is still one
        if wanted.clean:
            attack = victims.attack_of(wanted.victim)
            clean = CleanSet(**wanted.clean).made(clean, attack, ready.learned, run)
        if isinstance(defense, Control):
            defense = self._aimed(defense, wanted, ready, images, run)
        baseline = victims.linear_of(self.store, wanted.victim, images)
        known = self.store.read(wanted.kind, wanted.id) or {}
        start = time.perf_counter()
        repair = defense.repair(ready.model, clean, run)
        between = time.perf_counter()
        after = judged(repair.model, images.test, ready.stamped, run)
        layers, pruned = (
            judge.layers(ready.model, mask, images.test)
            for mask in (repair.silenced, repair.pruned)
        )
        own = list(judge.of_repair(defense, ready.model, repair, after, baseline, shared))
        changed = None if flags.SAME_WEIGHTS & set(own) else repair.model
        names = asked.of_cell(wanted, {"status": "done"})
        names = list(dict.fromkeys([*names, *known.get("measures", {})]))
        found = self._measures(wanted, names, changed, pruned, images, run) if names else {}
        spent = {"repair": between - start, "measure": time.perf_counter() - between}
        before = outcome.score(victim)
        weak = judge.weak(before.asr, wanted.victim.min_asr)
        theirs = [flag for flag in victim["flags"] if flag != judge.WEAK]
        return {
            "defense": record.of_method(defense),
            "after": record.of_score(after.score),
            "der": der(before, after.score),
            "linear": baseline.as_json(),
            "flags": flags.ordered([*weak, *theirs, *own]),
            "images": {**victim["images"], "clean": len(clean), "clean_in_test": shared},
            "layers": layers,
            **({"pruned": pruned} if pruned != layers else {}),
            **({"measures": found} if found else {}),
            "notes": {name: note for name, note in repair.notes.items() if name != "seconds"},
            "examples": victims.examples(ready, repair.model, run, pictures=False),
            "spent": spent,
        }

    def _aimed(
        self, control: Control, wanted: Cell, ready: Ready, images: Shelf, run: Run
    ) -> Defense:
        """The control with its channels chosen; the oracle alone is given the trigger."""
        other = wanted.follows
        followed = self.store.read("cells", other.id) if other else None
        sees = control.sees_trigger
        probe = victims.probe(wanted.victim, ready, images, run) if sees else None
        return control.aimed(ready.model, probe, images.test, followed, run)

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
