"""One repair of one subject, measured and kept: what the tables of the benchmarks are made of."""

from __future__ import annotations

import copy
import json
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from subjects import Subject, subject
from torch import Tensor, nn
from victims import CACHE, digest, fingerprint

from unbackdoor.core.images import Images, Triggered, to_float
from unbackdoor.core.measure import der, score
from unbackdoor.core.method import build, names
from unbackdoor.core.run import Run
from unbackdoor.defenses.base.defense import Defense, Repair
from unbackdoor.network.channels import silence_
from unbackdoor.network.layers import find_layers
from unbackdoor.network.norms import below, silence_norms_
from unbackdoor.training.fit import fit

FORMAT = 1
ORACLE = "oracle_"
"""In front of a method's name: its cut is chosen by what it does to the trigger."""


@dataclass(frozen=True)
class Job:
    """Which method repairs which subject, with how many clean images."""

    subject: str
    method: str
    params: Mapping[str, Any] = field(default_factory=dict)
    images: int | None = None
    """Clean images the method gets; None for all."""
    seed: int = 0

    @property
    def path(self) -> Path:
        """Where the result is kept."""
        key = digest([asdict(self), self.declaration(), FORMAT])
        return CACHE / "repairs" / self.subject / f"{self.method}-{key}.json"

    def declaration(self) -> Mapping[str, Any]:
        """Every parameter of the method: a default that changes makes another job."""
        name = self.method.removeprefix(ORACLE)
        return build("defense", name, dict(self.params)).declaration() if known(name) else {}


def known(method: str) -> bool:
    """Whether it is one of the package's defenses, not a control of the benchmarks."""
    return method in names("defense")


def done(job: Job) -> dict[str, Any] | None:
    """What was measured of `job` on the very model that is here; None where it was not."""
    if not job.path.exists():
        return None
    told: dict[str, Any] = json.loads(job.path.read_text(encoding="utf-8"))
    return told if told.get("model") == fingerprint(job.subject) else None


def result(job: Job) -> dict[str, Any]:
    """ACC, ASR and RA (hits, total), seconds, and the masked channels of `job`; done once."""
    before = done(job)
    if before is not None:
        return before
    judged = subject(job.subject)
    start = time.perf_counter()
    repaired, warned = mended(job, judged)
    seconds = time.perf_counter() - start
    measured = score(repaired.model, Run(), judged.test, judged.triggered)
    told = {
        **asdict(job),
        **measured.as_json(),
        "seconds": round(seconds, 2),
        "notes": dict(repaired.notes),
        "silenced": {k: v.nonzero().flatten().tolist() for k, v in repaired.silenced.items()},
        "warnings": warned,
        "model": fingerprint(job.subject),
        "measured": date.today().isoformat(),
    }
    for stale in job.path.parent.glob(f"{job.path.stem}.retuned-*"):
        stale.unlink()
    job.path.parent.mkdir(parents=True, exist_ok=True)
    save_file(_contiguous(repaired.model.state_dict()), job.path.with_suffix(".safetensors"))
    if repaired.scores:
        save_file(_contiguous(repaired.scores), scores_of(job))
    job.path.write_text(json.dumps(told), encoding="utf-8")
    return told


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.contiguous().clone() for key, value in tensors.items()}


def scores_of(job: Job) -> Path:
    """Where a method's scores of the channels are kept."""
    return job.path.with_suffix(".scores.safetensors")


def mended(job: Job, judged: Subject) -> tuple[Repair, list[str]]:
    """The repair itself, and what it warned of."""
    run = Run(seed=job.seed)
    clean = judged.clean if job.images is None else judged.clean[: job.images]
    if job.method == "none":
        return Repair(judged.model), []
    if job.method.startswith(ORACLE):
        return best_cut(job, judged), []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if job.method == "random_pruning":
            return random_pruning(judged.model, clean, run, dict(job.params)), []
        method = build("defense", job.method, dict(job.params))
        assert isinstance(method, Defense)
        repaired = method.repair(judged.model, clean, run)
    return repaired, [str(each.message) for each in caught]


def random_pruning(model: nn.Module, clean: Images, run: Run, params: dict[str, Any]) -> Repair:
    """One random channel in `p` of every layer silenced and held, then fine-tuning: a control."""
    p = params.pop("p", 64)
    tuning = build("defense", "fine_tuning", params)
    quiet = copied(model)
    layers = find_layers(quiet, to_float(clean.pixels[:2]))
    rng = run.rng("random pruning")
    mask = {
        layer.name: torch.randperm(layer.channels, generator=rng) < layer.channels // p
        for layer in layers
    }
    silence_(quiet, layers, mask)
    tuning.tune(quiet, clean, run, lambda tuned: silence_(tuned, layers, mask))  # type: ignore[attr-defined]
    return Repair(quiet, mask)


def best_cut(job: Job, judged: Subject) -> Repair:
    """The victim cut by the method's masks where the defense effectiveness (DER) is highest.

    It sees the trigger and the test images: `SEEN` of each kind choose the cut.
    """
    base = replace(job, method=job.method.removeprefix(ORACLE))
    result(base)
    masks, stamped = load_file(scores_of(base)), judged.triggered
    assert stamped is not None
    test = judged.test[:SEEN]
    few = Triggered(stamped.images[:SEEN], stamped.goals[:SEEN])
    before, best = score(judged.model, Run(), test, few), (-1.0, Repair(judged.model))
    for step in range(1, 20):
        mask, cut = below(masks, step / 20), copied(judged.model)
        silence_norms_(cut, mask)
        worth = der(before, score(cut, Run(), test, few)) or 0.0
        if worth > best[0]:
            best = worth, Repair(cut, mask, notes={"threshold": step / 20})
    return best[1]


SEEN = 1000


def copied(model: nn.Module) -> nn.Module:
    """A copy whose weights may change."""
    return copy.deepcopy(model)


def repaired_model(job: Job) -> nn.Module:
    """The model that `job` left behind."""
    model = copied(subject(job.subject).model)
    model.load_state_dict(load_file(job.path.with_suffix(".safetensors")))
    return model


RETUNED_ON = {"stamped": 50, "clean": 1000, "epochs": 5}


def asr_after_retuning(
    job: Job, judged: Subject, train: Images | None = None
) -> tuple[int, int] | None:
    """(hits, total) of the ASR after the re-activation attack (Min et al. 2024, 2410.09838).

    The repaired model is fine-tuned on 50 stamped images with the attacker's label and 1,000
    clean ones, 5 epochs at 0.01; those 50 are not counted in the ASR. None where it was not tried
    yet, and no `train`ing images are given to try it with.
    """
    stamped = judged.triggered
    assert stamped is not None
    known = job.path.with_suffix(f".retuned-{judged.name}-{fingerprint(judged.name)}.json")
    if not known.exists():
        if train is None:
            return None
        n, run = RETUNED_ON["stamped"], Run(seed=job.seed)
        some = train.sample(RETUNED_ON["clean"], run.rng("retuning"))
        bait = stamped.images[:n]
        mixed = Images(
            torch.cat([some.pixels, bait.pixels]),
            torch.cat([some.labels, stamped.goals[:n]]),
            some.classes,
        )
        model = repaired_model(job)
        fit(model, mixed, run, epochs=RETUNED_ON["epochs"], lr=0.01)
        rest = Triggered(stamped.images[n:], stamped.goals[n:])
        rate = score(model, Run(), None, rest).asr
        assert rate is not None
        known.write_text(json.dumps([rate.hits, rate.total]), encoding="utf-8")
    hits, total = json.loads(known.read_text(encoding="utf-8"))
    return hits, total
