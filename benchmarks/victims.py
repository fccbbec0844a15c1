"""The victims that benchmarks judge on: planted once by this project's attacks, then kept.

    python benchmarks/victims.py                    plant what is missing, then write docs/victims.*
    python benchmarks/victims.py --only sig,wanet   plant those of these names only
    python benchmarks/victims.py --tell             plant nothing, only write the page again

PreActResNet18 of width 16 on the first nine tenths of a training set; the last tenth belongs to
whoever repairs. SGD from a learning rate of 0.1 for 12 to 30 epochs stands for the field's 0.01
for 100: what counts is what the victim knows by heart in the end, and the table says it. Everything
is kept in `cache/victims/NAME`, which git ignores; a stop costs the epoch it falls into.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from claims import claimed
from safetensors.torch import load_file, save_file

from unbackdoor import load_images
from unbackdoor.attacks.base.attack import Attack
from unbackdoor.attacks.base.visibility import visibility
from unbackdoor.checkpoints import checkpoint
from unbackdoor.core.errors import UnbackdoorError
from unbackdoor.core.images import Images, Triggered, to_float
from unbackdoor.core.measure import accuracy, score
from unbackdoor.core.method import build
from unbackdoor.core.run import Run
from unbackdoor.core.spec import Spec
from unbackdoor.models import Normalized, create
from unbackdoor.training.fit import fit

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
CACHE = ROOT / "cache"
FILES = {"cifar10": "cifar10", "gtsrb": "gtsrb32"}
WEAK = 0.8
"""A victim with an ASR below this is told of in docs/victims.md, and judges nothing."""
FOOLED = 0.5
"""Nor does one whose trigger sends more of a clean model's images to the target."""
ON_GTSRB = {"badnets": 20, "blended": 12, "lf": 12, "ssba": 12, "wanet": 12}
ON_GTSRB |= {"ftrojan": 12, "bpp": 30, "refool": 12}
"""Epochs of each attack on GTSRB: the five of the FMP paper, and three beside them."""
ON_CLASS = {"refool": {"target": 2}}
"""A clean-label attack needs a class with images: class 2 has over 2,000, class 0 has 186."""


@dataclass(frozen=True)
class Victim:
    """One declaration: what is planted, on what, for how long."""

    attack: str
    """An attack's name, or `clean`."""
    params: Mapping[str, Any] = field(default_factory=dict)
    data: str = "cifar10"
    note: str = ""
    """What sets it apart from another of the same attack, for its name."""
    epochs: int = 20
    width: int = 16
    seed: int = 0

    @property
    def name(self) -> str:
        """What sets it apart, and its width."""
        parts = ("" if self.data == "cifar10" else self.data, self.attack, self.note)
        return "-".join([*(part for part in parts if part), f"w{self.width}"])

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        return CACHE / "victims" / self.name

    @property
    def job(self) -> str:
        """A hash of all that is asked for, defaults of the attack too."""
        attack = {} if self.attack == "clean" else declared(self).declaration()
        return digest([asdict(self), attack])


def digest(told: Any) -> str:
    """A hash of plain JSON values."""
    text = json.dumps(told, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


VICTIMS = (
    Victim("clean"),
    Victim("badnets"),
    Victim("blended"),
    Victim("sig", epochs=25),
    Victim("wanet", epochs=30),
    Victim("lf"),
    Victim("ssba"),
    Victim("bpp", epochs=25),
    Victim("ftrojan"),
    Victim("label_consistent", epochs=25),
    Victim("refool", epochs=25),
    Victim("ctrl", epochs=25),
    Victim("adaptive_blend", epochs=30),
    Victim("adaptive_patch", epochs=30),
    Victim("narcissus"),
    Victim("input_aware", epochs=30),
    Victim("lira", epochs=25),
    Victim("blind", epochs=25),
    Victim("trojannn"),
    Victim("badnets", {"all_to_all": True}, note="all-to-all", epochs=30),
    Victim("badnets", {"rate": 0.01}, note="1pc"),
    Victim("blended", {"rate": 0.01}, note="1pc", epochs=30),
    Victim("blended", {"rate": 0.005}, note="0.5pc", epochs=30),
    Victim("clean", data="gtsrb", epochs=12),
    *(
        Victim(attack, ON_CLASS.get(attack, {}), "gtsrb", epochs=n)
        for attack, n in ON_GTSRB.items()
    ),
    Victim("clean", seed=1, note="seed-1"),
    Victim("clean", data="gtsrb", seed=1, note="seed-1", epochs=12),
    Victim("trojannn", data="gtsrb", seed=1, epochs=12),
    Victim("input_aware", data="gtsrb", seed=1, epochs=12),
    Victim("adaptive_blend", {"rate": 0.02}, note="2pc"),
    Victim("lf", {"target": 3}, seed=2, note="seed-2"),
)


@cache
def images(data: str, part: str) -> Images:
    """The images to `train` victims on (nine tenths), the `clean` rest, or those to `test` on."""
    whole = load_images(
        DATA / f"{FILES[data]}-{'test' if part == 'test' else 'train'}.parquet",
        size=(32, 32),
        channels=3,
    )
    kept = len(whole) * 9 // 10
    return {"train": whole[:kept], "clean": whole[kept:], "test": whole}[part]


def network(victim: Victim, run: Run) -> Normalized:
    """The untrained network."""
    train = images(victim.data, "train")
    x = to_float(train.pixels[:5000])
    mean, std = (tuple(round(float(v), 4) for v in part((0, 2, 3))) for part in (x.mean, x.std))
    spec = Spec("preact_resnet18", train.classes, mean, std, {"width": victim.width})
    return create(spec, run.rng("init"))


def plant(victim: Victim, run: Run) -> None:
    """Trains the victim into its folder, unless it is there."""
    folder, train, test = victim.folder, images(victim.data, "train"), images(victim.data, "test")
    start, settings = time.perf_counter(), {"epochs": victim.epochs, "lr": 0.1}
    settings["flip"] = victim.data == "cifar10"
    model, state = network(victim, run), folder / "state.pt"
    resumed = state.exists()
    stamped, told = None, {}
    if victim.attack == "clean":
        fit(model, train, run, resume=state, **settings)
        known = {"clean": train.sample(5000, run.rng("taught"))}
    else:
        attack = declared(victim)
        planted = attack.plant(model, train, run, resume=state)
        model, stamped = planted.model, attack.triggered(test, planted.learned)
        known = attack.taught(planted, train, run)
        told = visibility(attack.aimed(test).images, stamped.images).as_json()
        save_file(
            {
                "pixels": stamped.images.pixels,
                "labels": stamped.images.labels,
                "goals": stamped.goals,
            },
            folder / "triggered.safetensors",
        )
    measured = score(model, run, test, stamped)
    checkpoint.save(model, folder / "model.safetensors", {"victim": asdict(victim)})
    meta = {
        **asdict(victim),
        "learned": {kind: accuracy(model, part, run).value for kind, part in known.items()},
        "visibility": told,
        **measured.as_json(),
        "seconds": round(time.perf_counter() - start, 1),
        "resumed": resumed,
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
    state.unlink(missing_ok=True)


def declared(victim: Victim) -> Attack:
    """The attack as it is planted."""
    settings = {"epochs": victim.epochs, "lr": 0.1, "flip": victim.data == "cifar10"}
    attack = build("attack", victim.attack, {**settings, **victim.params})
    assert isinstance(attack, Attack)
    return attack


def model_of(victim: Victim) -> Normalized:
    """The trained victim."""
    return checkpoint.load(victim.folder / "model.safetensors")


def triggered_of(victim: Victim) -> Triggered:
    """Its stamped test images, whose true class is not the target."""
    kept = load_file(victim.folder / "triggered.safetensors")
    classes = images(victim.data, "test").classes
    return Triggered(Images(kept["pixels"], kept["labels"], classes), kept["goals"])


def meta_of(victim: Victim) -> dict[str, Any]:
    """What was measured when it was planted."""
    told: dict[str, Any] = json.loads((victim.folder / "meta.json").read_text(encoding="utf-8"))
    return told


def ready(victim: Victim) -> bool:
    """Whether it was planted."""
    return (victim.folder / "meta.json").exists()


@cache
def fingerprint(name: str) -> str | None:
    """A hash of the weights of the victim of that name; None for one not here, or not ours."""
    victim = next((victim for victim in VICTIMS if victim.name == name), None)
    if victim is None or not ready(victim):
        return None
    digest = hashlib.blake2b(digest_size=6)
    for key, tensor in sorted(load_file(victim.folder / "model.safetensors").items()):
        digest.update(key.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def of_clean_model(victim: Victim) -> dict[str, float]:
    """What a model that was never attacked scores on the test images of `victim`.

    `clean_acc`, on the stamped ones `ra_limit`, which no repair can be asked to pass, and
    `clean_asr`: a trigger that fools a clean model says little about a backdoor.
    """
    clean = next(v for v in VICTIMS if v.attack == "clean" and v.data == victim.data)
    if not ready(clean):
        return {}
    known = victim.folder / f"clean-{fingerprint(clean.name)}-{fingerprint(victim.name)}.json"
    if not known.exists():
        rates = score(model_of(clean), Run(), None, triggered_of(victim)).as_json()
        known.write_text(json.dumps(rates), encoding="utf-8")
    rates = json.loads(known.read_text(encoding="utf-8"))
    return {
        "clean_acc": meta_of(clean)["acc"]["value"],
        "clean_asr": rates["asr"]["value"],
        "ra_limit": rates["ra"]["value"],
    }


def took(victim: Victim) -> bool:
    """Whether its backdoor is in, so that it can show something about a repair.

    All-to-all asks for the true class first: its ASR is held against ACC.
    """
    if victim.attack == "clean":
        return True
    told, fooled = meta_of(victim), of_clean_model(victim).get("clean_asr", 0.0)
    return enough(victim, told["acc"]["value"], told["asr"]["value"], fooled)


def enough(victim: Victim, acc: float, asr: float, clean_asr: float) -> bool:
    """The same of these rates, shares of 1."""
    most = acc if victim.params.get("all_to_all") else 1.0
    return asr >= WEAK * most and clean_asr < FOOLED


def main() -> None:
    """Plants what is missing and writes the table."""
    asks = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asks.add_argument("--only", default="", help="names or attacks, with commas between")
    asks.add_argument("--tell", action="store_true", help="plant nothing")
    given = asks.parse_args()
    wanted = {part for part in given.only.split(",") if part}
    for victim in VICTIMS:
        if given.tell or ready(victim) or (wanted and not wanted & {victim.name, victim.attack}):
            continue
        with claimed(victim.folder) as mine:
            if not mine or ready(victim):
                continue
            try:
                plant(victim, Run(seed=victim.seed, cache=CACHE / "learned"))
            except UnbackdoorError as error:
                print(f"{victim.name}: {error}", file=sys.stderr)
                continue
        told = meta_of(victim)
        print(victim.name, told["learned"], told["acc"], told["asr"], flush=True)
    from victims_page import write

    write([victim for victim in VICTIMS if ready(victim)])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
