"""Which ranking finds the backdoor's channels? Measured against an oracle that sees the trigger.

    python benchmarks/channel_ranking.py                    what is missing, then docs/ranking.*
    python benchmarks/channel_ranking.py --only wanet-w16   of this victim only (commas between)
    python benchmarks/channel_ranking.py --tell             measure nothing, write it again

The oracle is the trigger-activated change (TAC; Zheng et al. 2022, arXiv 2208.03111): of a channel,
the mean distance between its map of a triggered image and of the same image before. It lives here
and in no defense. `coverage` is the share of the oracle's top N/64 channels that a ranking's top
N/p hold; a layer of fewer than p channels loses none. Rates are of a sample of the test images.
Rows are kept in `cache/rankings`.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from claims import claimed
from repairs import copied
from subjects import Subject, names, subject, victim_named
from torch import Tensor, nn
from victims import CACHE, digest, fingerprint

from unbackdoor.core.images import Images, Triggered, to_float
from unbackdoor.core.measure import score
from unbackdoor.core.method import build
from unbackdoor.core.modules import in_mode
from unbackdoor.core.run import Run
from unbackdoor.defenses.base.defense import Tuning
from unbackdoor.defenses.fine_tuning import FineTuning
from unbackdoor.defenses.fmp import FMP
from unbackdoor.defenses.fmp_plus import highest
from unbackdoor.network.channels import Mask, feature_maps, silence_, silenced
from unbackdoor.network.layers import Layer, find_layers
from unbackdoor.ranking.capacity import unused_capacity

SHARES = (64, 32, 16, 8)
JUDGED = 2000
EPOCHS = 3
JUDGES = ("badnets-w16", "blended-w16", "sig-w16", "lf-w16", "wanet-w16", "ssba-w16")
JUDGES += ("input_aware-w16", "gtsrb-badnets-w16", "gtsrb-blended-w16", "gtsrb-lf-w16")

Row = dict[str, Any]


def trigger_activated_change(
    model: nn.Module, layers: tuple[Layer, ...], clean: Images, stamped: Images
) -> dict[str, Tensor]:
    """TAC of every channel, by layer name; `stamped[i]` is `clean[i]` with the trigger."""
    total = {layer.name: torch.zeros(layer.channels) for layer in layers}
    with in_mode(model, train=False), torch.no_grad(), feature_maps(model, layers) as maps:
        for (x, _), (y, _) in zip(clean.batches(100), stamped.batches(100), strict=True):
            model(x)
            before = dict(maps)
            model(y)
            for name, values in maps.items():
                total[name] += (values - before[name]).flatten(2).norm(dim=2).sum(0)
    return {name: change / len(clean) for name, change in total.items()}


def top(scores: Mapping[str, Tensor], p: int) -> Mask:
    """The `N / p` channels of each layer with the highest scores."""
    return {name: highest(score, len(score) // p) for name, score in scores.items()}


def coverage(chosen: Mask, oracle: Mask) -> float | None:
    """The share of the `oracle`'s channels that are `chosen`; None where it has none."""
    wanted = sum(int(mask.sum()) for mask in oracle.values())
    found = sum(int((mask & chosen[name]).sum()) for name, mask in oracle.items() if name in chosen)
    return found / wanted if wanted else None


def changes(judged: Subject, layers: tuple[Layer, ...]) -> dict[str, Tensor]:
    """TAC of every channel, from 500 triggered test images."""
    assert judged.triggered is not None and judged.originals is not None
    before, stamped = judged.originals[:500], judged.triggered.images[:500]
    return trigger_activated_change(judged.model, layers, before, stamped)


def oracle(judged: Subject) -> Mask:
    """The channels that the trigger changes most: the top N/64 of each layer."""
    layers = find_layers(judged.model, to_float(judged.test.pixels[:2]))
    return top(changes(judged, layers), SHARES[0])


def rankings(judged: Subject, layers: tuple[Layer, ...], run: Run) -> dict[str, dict[str, Tensor]]:
    """Scores by ranking; the highest are suspect."""
    model, rng = judged.model, run.rng("ranking images")
    some = judged.clean.sample(32, rng)
    told = FMP().rankings(copied(model), layers, some, run)
    return {
        "oracle": changes(judged, layers),
        "unused capacity": unused_capacity(model, layers, judged.clean.sample(500, rng), run),
        "fmp": {name: 1e-3 * ranking.loss - ranking.accuracy for name, ranking in told.items()},
        "random": {layer.name: torch.rand(layer.channels, generator=rng) for layer in layers},
    }


def rates(model: nn.Module, judged: Subject, run: Run) -> dict[str, float]:
    """ACC, ASR and RA in percent, of a sample."""
    assert judged.triggered is not None
    test = judged.test.sample(JUDGED, run.rng("judged"))
    stamped = Triggered(judged.triggered.images[:JUDGED], judged.triggered.goals[:JUDGED])
    told = score(model, run, test, stamped).as_json()
    return {key: round(100 * told[key]["value"], 1) for key in ("acc", "asr", "ra")}


def rows(name: str) -> Iterator[Row]:
    """Of `name`, a row as it is, then one for every ranking and share that is pruned."""
    judged, run = subject(name), Run()
    layers = find_layers(judged.model, to_float(judged.test.pixels[:2]))
    found = rankings(judged, layers, run)
    wanted = top(found["oracle"], SHARES[0])
    cuts = [(kind, p, top(scores, p)) for kind, scores in found.items() for p in SHARES]
    for kind, p, mask in [("none", None, {}), *cuts]:
        model = silenced(judged.model, layers, mask)
        covered = None if p is None else coverage(mask, wanted)
        row = {"victim": name, "ranking": kind, "p": p, "coverage": covered}
        row["pruned"] = rates(model, judged, run)
        tune(model, judged, run, lambda tuned, mask=mask: silence_(tuned, layers, mask))
        yield row | {"tuned": rates(model, judged, run)}


def tune(model: nn.Module, judged: Subject, run: Run, after_step: Callable[..., object]) -> None:
    """Fine-tunes `model` in place for a few epochs."""
    victim = victim_named(judged.name)
    settings = {"epochs": EPOCHS, "flip": victim is None or victim.data == "cifar10"}
    tuning = build("defense", "fine_tuning", settings)
    assert isinstance(tuning, Tuning)
    tuning.tune(model, judged.clean, run, after_step)


def kept(name: str) -> Path:
    """Where the rows of a victim are kept."""
    return CACHE / "rankings" / f"{name}.json"


def known(name: str) -> list[Row]:
    """The rows of the very model that is here, if they were measured as they would be now."""
    rows = json.loads(kept(name).read_text()) if kept(name).exists() else []
    wanted = (job(), fingerprint(name))
    return [row for row in rows if (row.get("job"), row.get("model")) == wanted]


def job() -> str:
    """A hash of how rows are measured."""
    return digest([JUDGED, EPOCHS, FMP().declaration(), FineTuning().declaration()])


def main() -> None:
    """Measures what is missing and writes the page."""
    asks = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asks.add_argument("--only", default="", help="victims, with commas between")
    asks.add_argument("--tell", action="store_true", help="measure nothing")
    given = asks.parse_args()
    judges = [name for name in JUDGES if not given.only or name in given.only.split(",")]
    from ranking_page import told_before, write

    there = () if given.tell else set(names()) - told_before()
    for name in (name for name in judges if name in there):
        with claimed(kept(name).with_suffix("")) as mine:
            if mine and not known(name):
                told = [{**row, "job": job(), "model": fingerprint(name)} for row in rows(name)]
                kept(name).write_text(json.dumps(told), encoding="utf-8")
                print(name, flush=True)

    write([row for name in JUDGES if name in names() for row in known(name)])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
