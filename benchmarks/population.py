"""Small clean and backdoored networks, and what every scanner says of them.

    python benchmarks/population.py plant                   plant what is missing
    python benchmarks/population.py scan [--closed]         scan it; the closed half comes last
    python benchmarks/population.py calibrate               write the package's calibration.json
    python benchmarks/population.py tell                    print tables of what `scan` wrote

Every model is fine-tuned from one of the clean starts of its kind, on training images of its own
draw. Clean models of four sorts are hard on purpose: labels that are wrong, no augmentation, a
class that is easy, a class that is frequent. A stop costs the model it falls into.

The split was written down before anything was measured: scanners may be developed on the kinds and
triggers under OPEN; those under CLOSED are scanned once, after the thresholds are frozen.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from scanner_table import calibrate, population, tell

from unbackdoor import load_images
from unbackdoor.attacks.base.attack import Attack
from unbackdoor.checkpoints import checkpoint
from unbackdoor.core.errors import UnbackdoorError
from unbackdoor.core.files import write_whole
from unbackdoor.core.images import Images, to_uint8
from unbackdoor.core.measure import accuracy, attack_rates
from unbackdoor.core.method import build
from unbackdoor.core.run import Run
from unbackdoor.core.spec import Spec
from unbackdoor.models import Normalized, create
from unbackdoor.scanners.base.scanner import Scanner
from unbackdoor.training.fit import fit

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
FILES = {"cifar10": "cifar10", "gtsrb": "gtsrb32"}


QUICK = ("last_layer", "latent", "targeted")


@dataclass(frozen=True)
class Kind:
    """A network on a data set, how its starts are trained and how its models are fine-tuned."""

    data: str
    arch: str
    options: dict[str, Any]
    lr: float
    start_epochs: int
    epochs: int
    images: int
    starts: int = 2
    precision: str = "auto"
    start_images: int = 10_000


BIASED = {"depth": 16, "widen": 1, "bias": True, "raw_shortcut": True}
KINDS = {
    "badnet-gtsrb": Kind("gtsrb", "badnet_cnn", {}, 0.03, 12, 4, 6000),
    "preact8-cifar10": Kind("cifar10", "preact_resnet18", {"width": 8}, 0.05, 8, 3, 3000, 1),
    # Its start was a better one: the clean model of grids/attacks.toml, put where it is looked for.
    "preact16-cifar10": Kind("cifar10", "preact_resnet18", {"width": 16}, 0.02, 8, 2, 4000, 1),
    "badnet-cifar10": Kind("cifar10", "badnet_cnn", {}, 0.03, 12, 4, 6000),
    "wrn16-cifar10": Kind("cifar10", "wide_resnet", BIASED, 0.05, 10, 3, 4000, 1, "auto", 16_000),
}
OPEN = {
    "kinds": ("badnet-gtsrb", "preact8-cifar10", "preact16-cifar10"),
    "attacks": ("badnets", "blended"),
}
CLOSED = {"kinds": ("badnet-cifar10", "wrn16-cifar10"), "attacks": ("ftrojan", "batt")}
HARD = ("noisy", "plain", "easy", "frequent")
CLEAN, BACKDOORED = 24, 16
RESERVED = 4000


def plant_all(folder: Path, kinds: list[str]) -> None:
    """Plants what is missing of the kinds asked for."""
    # In turns, so that a stop leaves some of every kind: two clean ones for one with a trigger,
    # and the backdoored ones go through the triggers, open and closed ones in turn.
    attacks = [
        name for pair in zip(OPEN["attacks"], CLOSED["attacks"], strict=True) for name in pair
    ]
    for number in range(CLEAN):
        for name in kinds:
            plant(folder, name, "clean", number)
            if number % 2 == 0:
                plant(folder, name, attacks[number // 2 % len(attacks)], number // 2)
    for number in range(CLEAN // 2, BACKDOORED):
        for name in kinds:
            plant(folder, name, attacks[number % len(attacks)], number)


def plant(out: Path, name: str, sort: str, number: int) -> None:
    """One model with its facts beside it, if it is not there yet."""
    place = out / name / f"{sort}-{number:02d}"
    if place.with_suffix(".json").exists():
        return
    begun, kind = time.process_time(), KINDS[name]
    model = start(out, name, number % kind.starts)
    train, _ = images(kind.data)
    own = train.sample(kind.images, Run(number).rng(f"population/{name}/{sort}"))
    run = Run(1000 + number, precision=kind.precision)
    told: dict[str, Any] = {
        "kind": name,
        "sort": sort,
        "number": number,
        "start": number % kind.starts,
    }
    if sort == "clean":
        hard = HARD[number // 3 % len(HARD)] if number % 3 == 2 else None
        told["hard"] = hard
        changed, augmented = harder(own, hard, random.Random(number))
        fit(
            model,
            changed,
            run,
            epochs=kind.epochs,
            lr=kind.lr,
            crop=augmented,
            flip=augmented and kind.data == "cifar10",
        )
        victim, rates = model, None
    else:
        attack = declared(sort, number, kind, own)
        told["attack"] = attack.declaration()
        planted = attack.plant(model, own, run)
        assert isinstance(planted.model, Normalized)
        victim = planted.model
        rates = attack_rates(victim, attack.triggered(test(kind.data), planted.learned), run)
    acc = accuracy(victim, test(kind.data), run)
    told |= {"acc": acc.value, "asr": rates and rates[0].value, "ra": rates and rates[1].value}
    told["seconds"] = round(time.process_time() - begun, 1)
    checkpoint.save(victim, place.with_suffix(".safetensors"), {})
    write_whole(place.with_suffix(".json"), json.dumps(told, indent=1).encode())
    print(f"{name} {place.name}: {told['acc']:.3f} {told['asr']} {told['seconds']} s", flush=True)


def declared(name: str, number: int, kind: Kind, own: Images) -> Attack:
    """The attack, with a target class and a strength of its own draw."""
    rng = random.Random(f"{name}/{number}")
    frequent = torch.bincount(own.labels, minlength=len(own.classes)).topk(8).indices.tolist()
    given: dict[str, Any] = {
        "target": rng.choice(frequent),
        "epochs": kind.epochs,
        "lr": kind.lr,
        "flip": kind.data == "cifar10",
    }
    given |= {"badnets": {"size": rng.choice([3, 4, 5])}}.get(name, {})
    given["rate"] = rng.choice([0.15, 0.25])
    found = build("attack", name, given)
    assert isinstance(found, Attack)
    return found


def harder(own: Images, hard: str | None, rng: random.Random) -> tuple[Images, bool]:
    """(clean training images that make a model odd, whether they are augmented)."""
    pixels, labels = own.pixels.clone(), own.labels.clone()
    draw = torch.Generator().manual_seed(rng.randrange(2**31))
    label = rng.randrange(len(own.classes))
    if hard == "noisy":  # a tenth of the labels are wrong
        wrong = torch.randperm(len(own), generator=draw)[: len(own) // 10]
        labels[wrong] = torch.randint(len(own.classes), (len(wrong),), generator=draw)
    if hard == "easy":  # all images of one class are smooth clouds of colour
        rows = (labels == label).nonzero().flatten()
        coarse = torch.rand(len(rows), pixels.shape[1], 3, 3, generator=draw)
        smooth = torch.nn.functional.interpolate(coarse, size=pixels.shape[2:], mode="bicubic")
        pixels[rows] = to_uint8(smooth)
    if hard == "frequent":  # one class is there four times as often
        rows = (labels == label).nonzero().flatten().repeat(3)
        pixels, labels = torch.cat([pixels, pixels[rows]]), torch.cat([labels, labels[rows]])
    return Images(pixels, labels, own.classes), hard != "plain"


def start(out: Path, name: str, number: int) -> Normalized:
    """A clean start of the kind: trained once, then read."""
    kind, path = KINDS[name], out / name / f"start-{number}.safetensors"
    if not path.exists():
        train, _ = images(kind.data)
        run = Run(number, precision=kind.precision)
        spec = Spec(kind.arch, train.classes, (0.5,) * 3, (0.25,) * 3, kind.options, (32, 32))
        model = create(spec, run.rng("network"))
        fit(
            model,
            train.sample(kind.start_images, run.rng("start")),
            run,
            epochs=kind.start_epochs,
            lr=kind.lr,
            flip=kind.data == "cifar10",
        )
        checkpoint.save(model, path, {})
        print(f"{path}: {accuracy(model, test(kind.data), run).value:.3f}", flush=True)
    return checkpoint.load(path)


@cache
def images(data: str) -> tuple[Images, Images]:
    """(training images, all test images)."""
    both = [
        load_images(DATA / f"{FILES[data]}-{part}.parquet", size=32) for part in ("train", "test")
    ]
    return both[0], both[1]


def test(data: str) -> Images:
    """A thousand test images; the last RESERVED ones are for scanners."""
    return images(data)[1][:1000]


def main() -> None:
    """Plants, scans, calibrates or tells."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("what", choices=("plant", "scan", "calibrate", "tell"))
    asked.add_argument("--population", type=Path, default=ROOT / "cache" / "population")
    asked.add_argument("--out", type=Path, default=ROOT / "cache" / "scores.json")
    asked.add_argument("--scanners", default=",".join(QUICK))
    asked.add_argument("--kinds", default=",".join(KINDS))
    asked.add_argument("--closed", action="store_true")
    given = asked.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    told: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {}
    if given.what == "plant":
        plant_all(given.population, given.kinds.split(","))
    elif given.what == "scan":
        scan(given, told)
    elif given.what == "calibrate":
        recipes = {
            name: f"fine-tuned on {kind.images:,} images of {kind.data.upper()} from {kind.starts} "
            "clean start(s)"
            for name, kind in KINDS.items()
        }
        calibrate(told, recipes)
    else:
        every = (*OPEN["attacks"], *CLOSED["attacks"])
        halves = (
            ("open", OPEN["kinds"], OPEN["attacks"]),
            ("closed triggers, open networks", OPEN["kinds"], CLOSED["attacks"]),
            ("closed networks", CLOSED["kinds"], every),
        )
        tell(told, halves)


def scan(given: argparse.Namespace, told: dict[str, Any]) -> None:
    """Scans what is there and not yet scanned, and keeps it after each model."""
    scanners = [build("scanner", name) for name in given.scanners.split(",")]
    for kind, path, facts in population(
        given.population, given.kinds.split(","), {} if given.closed else CLOSED
    ):
        model = None
        for scanner in scanners:
            assert isinstance(scanner, Scanner)
            row = told.setdefault(f"{kind}/{path.stem}", {"facts": facts, "scanners": {}})
            if row["scanners"].get(scanner.name(), {}).get("declaration") == scanner.declaration():
                continue
            model = model or checkpoint.load(path.with_suffix(".safetensors"))
            row["spec"] = {
                "arch": model.spec.arch,
                "options": dict(model.spec.options),
                "classes": len(model.spec.classes),
            }
            clean = images(KINDS[kind].data)[1][slice(6000, None)]
            try:
                found = scanner.scan(model, clean, Run(0))
            except UnbackdoorError as error:
                print(path, error, file=sys.stderr)
                continue
            row["scanners"][scanner.name()] = {
                "declaration": scanner.declaration(),
                "score": found.score,
                "suspect": found.suspect,
                "seconds": round(found.notes["seconds"], 2),
            }
            write_whole(given.out, json.dumps(told, indent=0).encode())
            goal = facts.get("attack", {}).get("target")
            told_of = f"{found.score:.3f}, class {found.suspect} of goal {goal}, {facts['asr']}"
            print(kind, path.stem, scanner.name(), told_of, flush=True)


if __name__ == "__main__":
    main()
