"""Victims and clean models: planted once, kept as checkpoints, read by all cells that need them."""

from __future__ import annotations

import base64
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import nn

from ..attacks.base import planting
from ..attacks.base.attack import NOTHING, Attack, Poisoned
from ..attacks.base.attack import Victim as Planted
from ..attacks.base.backdoorbench import rows_of
from ..attacks.base.export import png
from ..checkpoints import checkpoint
from ..core import method, record
from ..core.files import write_whole
from ..core.images import Images, Triggered
from ..core.measure import Rate, accuracy, attack_rates, check, predictions
from ..core.recall import Learned
from ..core.run import Run
from ..models import Normalized
from ..training.fit import fit
from . import flags, given, starts
from .cell import Victim
from .judge import judged, of_victim
from .measures import Probe
from .shelf import Shelf, linear
from .store import Record, Store, identity

MODEL, LEARNED, STATE, CACHE = "model.safetensors", "learned.safetensors", "state.pt", "cache"
MOST_TAUGHT = 5000
SHOWN = 6
"""How many test images a victim's page shows."""


@dataclass(frozen=True, eq=False)
class Ready:
    """A model to repair, on its device, and what judges it; no defense sees more than the model."""

    model: Normalized
    learned: Learned
    stamped: Triggered | None
    shown: Images
    shown_stamped: Images | None


def attack_of(victim: Victim) -> Attack | None:
    """The attack that plants a victim; None for a clean model, and one that is there already."""
    if victim.attack is None or victim.given:
        return None
    table = dict(victim.attack)
    found = method.build("attack", table.pop("name"), table)
    assert isinstance(found, Attack)
    return found


def network_of(victim: Victim) -> planting.Network:
    """The network of a victim, untrained."""
    return planting.Network(victim.architecture["name"], victim.architecture["options"])


def channels_of(victim: Victim) -> int | None:
    """The channels of its images, as far as its declaration says."""
    return victim.given["channels"] if victim.given else network_of(victim).channels


def plant(victim: Victim, shelf: Shelf, folder: Path, run: Run) -> Poisoned | None:
    """Trains the victim and writes its weights into `folder`; the poisoned set, where there is one.

    A training that was stopped goes on, until `finish`.
    """
    if victim.given:
        folder.mkdir(parents=True, exist_ok=True)
        found = given.load(victim)
        check(found, shelf.test)
        checkpoint.save(found, folder / MODEL, {"victim": victim.declaration()})
        return None
    attack, model = attack_of(victim), _untaught(victim, shelf.train, folder, run)
    state = folder / STATE
    planted = Planted(model, None)
    if attack is None:
        assert victim.training is not None
        fit(model, shelf.train, run, resume=state, **victim.training)
    else:
        planted = attack.plant(model, shelf.train, run, resume=state)
    assert isinstance(planted.model, Normalized)
    learned = planted.learned.items()
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in learned}
    write_whole(folder / LEARNED, to_bytes(tensors))
    checkpoint.save(planted.model, folder / MODEL, {"victim": victim.declaration()})
    return planted.poisoned


def _untaught(victim: Victim, train: Images, folder: Path, run: Run) -> Normalized:
    """What the training of a victim starts from: fresh weights, a checkpoint or the clean model."""
    if victim.start is None:
        return network_of(victim).build(train, run)
    if "sha256" in victim.start:
        return starts.from_file(victim, train)
    assert victim.clean
    return model_of(victim.clean, folder.parent / victim.clean.id)


def model_of(victim: Victim, folder: Path) -> Normalized:
    """The model in the `folder` of a victim, on the CPU."""
    name, options = victim.architecture["name"], victim.architecture["options"]
    return checkpoint.load(folder / MODEL, arch=name, options=options)


def begun(folder: Path) -> bool:
    """Whether a training that was stopped goes on from here."""
    return (folder / STATE).exists() or (folder / CACHE).exists()


def finish(folder: Path) -> None:
    """Removes what a stopped training would have gone on from."""
    (folder / STATE).unlink(missing_ok=True)
    shutil.rmtree(folder / CACHE, ignore_errors=True)


def load(victim: Victim, shelf: Shelf, folder: Path, run: Run) -> Ready:
    """The victim as its files tell it, and the triggered test images that only the bench sees."""
    model, attack = model_of(victim, folder).to(run.device), attack_of(victim)
    if victim.given and (own := given.stamped(victim, shelf.test.shape, shelf.test.classes)):
        shown = own.images[_varied(own.images)]
        return Ready(model, NOTHING, own, given.beside(shown, shelf.test), shown)
    if attack is None:
        return Ready(model, NOTHING, None, shelf.test[_varied(shelf.test)], None)
    learned = load_file(folder / LEARNED)
    aimed, stamped = attack.aimed(shelf.test), attack.triggered(shelf.test, learned)
    places = _varied(aimed.images)
    return Ready(model, learned, stamped, aimed.images[places], stamped.images[places])


def probe(
    victim: Victim, ready: Ready, shelf: Shelf, run: Run, clean: nn.Module | None = None
) -> Probe:
    """The victim, its trigger, which it must have, and its clean model as the measures take them.

    Of a model that is there already, the clean test image that is nearest to a triggered one and
    of its class stands for that image without the trigger.
    """
    attack, stamped = attack_of(victim), ready.stamped
    assert stamped is not None and victim.attack is not None

    def before(places: torch.Tensor) -> Images:
        if attack is None:
            return given.beside(stamped.images[places], shelf.test)
        return attack.aimed(shelf.test).images[places]

    flip = bool(victim.attack.get("flip", victim.flip))
    return Probe(ready.model, stamped, before, shelf.train, shelf.test, flip, run, clean)


def told(
    victim: Victim, ready: Ready, shelf: Shelf, poisoned: Poisoned | None, baseline: Rate, run: Run
) -> Record:
    """What the record of a victim says: how good, how backdoored, how trained, how it looks."""
    found = judged(ready.model, shelf.test, ready.stamped, run)
    attack = attack_of(victim)
    learned: dict[str, Rate] = {}  # of a model that others trained the images are unknown
    if attack:
        planted = Planted(ready.model, poisoned, ready.learned)
        learned = planting.learned(attack, planted, shelf.train, run)
    elif victim.training and victim.training["epochs"]:
        seen = shelf.train.sample(MOST_TAUGHT, run.rng("taught"))
        learned = {"clean": accuracy(ready.model, seen, run)}
    other = attack.elsewhere(shelf.test, ready.learned) if attack else None
    weak = of_victim(found.score.asr, learned, victim.min_asr)
    return {
        "score": record.of_score(found.score),
        "learned": {kind: rate.as_json() for kind, rate in learned.items()},
        "asr_other_sources": attack_rates(ready.model, other, run)[0].as_json() if other else None,
        "linear": baseline.as_json(),
        "indices": poisoned and poisoned.indices(_numbers(shelf)),
        "min_asr": victim.min_asr,
        "flags": flags.ordered((*found.flags(baseline), *weak)),
        "attack": record.of_method(attack) if attack else None,
        "classes": list(shelf.test.classes),
        "parameters": sum(parameter.numel() for parameter in ready.model.parameters()),
        "images": {
            "train": len(shelf.train),
            "test": len(shelf.test),
            "stamped": len(ready.stamped.goals) if ready.stamped else 0,
        },
        "examples": examples(ready, ready.model, run, pictures=True),
    }


def _numbers(shelf: Shelf) -> torch.Tensor | None:
    """The numbers of the victim's training images among all; None where it is given all."""
    return None if shelf.train is shelf.every else torch.tensor(rows_of(shelf.train, shelf.every))


def linear_of(store: Store, victim: Victim, shelf: Shelf) -> Rate:
    """How far a linear classifier comes on the victim's data; learned once a data set."""
    name = identity({"data": victim.data, "channels": shelf.train.shape[0]})
    found = store.read("linear", name)
    if found is None:
        rate = linear(shelf.every, shelf.test)
        found = {"data": victim.data, **rate.as_json()}
        store.write("linear", name, found)
    return Rate(int(found["hits"]), int(found["total"]))


def examples(ready: Ready, model: nn.Module, run: Run, *, pictures: bool) -> list[dict[str, Any]]:
    """The classes that `model` gives a few test images, clean and triggered; with their `pictures`.

    Pictures are PNG files in base64.
    """
    kinds = {"clean": ready.shown, "stamped": ready.shown_stamped}
    said = {
        kind: predictions(model, images, Run(device=run.device)).tolist()
        for kind, images in kinds.items()
        if images is not None
    }
    found: list[dict[str, Any]] = []
    for place, label in enumerate(ready.shown.labels.tolist()):
        told: dict[str, Any] = {"said": {kind: classes[place] for kind, classes in said.items()}}
        if pictures:
            told["truth"] = label
            told["png"] = {
                kind: base64.b64encode(png(images.pixels[place])).decode()
                for kind, images in kinds.items()
                if images is not None
            }
        found.append(told)
    return found


def _varied(images: Images) -> torch.Tensor:
    """The places of a few images, of as many classes as can be."""
    order = torch.argsort(images.labels, stable=True)
    first = torch.ones(len(order), dtype=torch.bool)
    first[1:] = images.labels[order][1:] != images.labels[order][:-1]
    return torch.cat([order[first], order[~first]])[:SHOWN]
