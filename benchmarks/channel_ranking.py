"""Which ranking finds the backdoor's channels? Measured against an oracle that sees the trigger.

    python benchmarks/channel_ranking.py badnets-w16 blended-w16
    python benchmarks/channel_ranking.py badnets-w16 --epochs 3     and after fine-tuning

The oracle is the trigger-activated change (TAC; Zheng et al. 2022, arXiv 2208.03111): of a channel,
the mean distance between its map of a stamped image and of the same image before. It lives here
and in no defense. `coverage` is the share of the oracle's top N/64 channels that a ranking's top
N/p hold; a layer of fewer than p channels loses none. Rates are of a sample of the test images.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import torch
from repairs import copied
from subjects import Subject, subject
from torch import Tensor, nn

from unbackdoor.capacity import unused_capacity
from unbackdoor.channels import Layer, Mask, feature_maps, find_layers, silence_, silenced
from unbackdoor.defense import Tuning
from unbackdoor.defenses.fmp import FMP
from unbackdoor.defenses.fmp_plus import highest
from unbackdoor.images import Images, Triggered, to_float
from unbackdoor.measure import score
from unbackdoor.method import build
from unbackdoor.modules import in_mode
from unbackdoor.run import Run

SHARES = (64, 32, 16, 8)
JUDGED = 2000


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


def oracle(judged: Subject, images: int = 500) -> Mask:
    """The channels that the trigger changes most: the top N/64 of each layer."""
    assert judged.triggered is not None and judged.originals is not None
    layers = find_layers(judged.model, to_float(judged.test.pixels[:2]))
    stamped = judged.triggered.images[:images]
    return top(
        trigger_activated_change(judged.model, layers, judged.originals[:images], stamped),
        SHARES[0],
    )


def rankings(judged: Subject, layers: tuple[Layer, ...], run: Run) -> dict[str, dict[str, Tensor]]:
    """Scores by ranking; the highest are suspect."""
    model, rng = judged.model, run.rng("ranking images")
    some = judged.clean.sample(32, rng)
    told = FMP().rankings(copied(model), layers, some, run)
    found = {
        "oracle": {},
        "unused capacity": unused_capacity(model, layers, judged.clean.sample(500, rng), run),
        "fmp": {name: 1e-3 * ranking.loss - ranking.accuracy for name, ranking in told.items()},
        "random": {layer.name: torch.rand(layer.channels, generator=rng) for layer in layers},
    }
    if judged.triggered is not None and judged.originals is not None:
        found["oracle"] = trigger_activated_change(
            model, layers, judged.originals[:500], judged.triggered.images[:500]
        )
    return {name: scores for name, scores in found.items() if scores}


def rates(model: nn.Module, judged: Subject, run: Run) -> str:
    """ACC/ASR/RA in percent."""
    assert judged.triggered is not None
    test = judged.test.sample(JUDGED, run.rng("judged"))
    stamped = Triggered(judged.triggered.images[:JUDGED], judged.triggered.goals[:JUDGED])
    measured = score(model, run, test, stamped)
    return "/".join(
        f"{100 * rate.value:.1f}" for rate in (measured.acc, measured.asr, measured.ra) if rate
    )


def main() -> None:
    """Prints a table a victim."""
    asks = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asks.add_argument("victims", nargs="+")
    asks.add_argument("--epochs", type=int, default=0, help="of fine-tuning after the pruning")
    given, run = asks.parse_args(), Run()
    for name in given.victims:
        judged = subject(name)
        layers = find_layers(judged.model, to_float(judged.test.pixels[:2]))
        print(f"\n{name}: {rates(judged.model, judged, run)} before")
        print("| ranking | p | coverage | pruned: ACC/ASR/RA | fine-tuned |\n|---|---|---|---|---|")
        found = rankings(judged, layers, run)
        for kind, scores in found.items():
            for p in SHARES:
                show(kind, p, top(scores, p), found, judged, layers, given.epochs, run)


def show(
    kind: str,
    p: int,
    mask: Mask,
    found: Mapping[str, Mapping[str, Tensor]],
    judged: Subject,
    layers: tuple[Layer, ...],
    epochs: int,
    run: Run,
) -> None:
    """Prints one row."""
    covered = coverage(mask, top(found["oracle"], SHARES[0])) if "oracle" in found else None
    pruned = silenced(judged.model, layers, mask)
    cells: list[Any] = [kind, p, "–" if covered is None else f"{100 * covered:.0f} %"]
    cells.append(rates(pruned, judged, run))
    if epochs:
        tuning = build("defense", "fine_tuning", {"epochs": epochs})
        assert isinstance(tuning, Tuning)
        tuning.tune(pruned, judged.clean, run, lambda tuned: silence_(tuned, layers, mask))
        cells.append(rates(pruned, judged, run))
    else:
        cells.append("–")
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
