"""The FMP ranking against the published procedure, side by side in one process.

    python benchmarks/fmp_ranking.py --quick
    python benchmarks/fmp_ranking.py --model MODEL --clean IMAGES --json

The published procedure is written plainly: for each channel a pass on the clean images, a pass on
the noisy ones, the gradient to the images, a pass on the moved ones; float32, one batch. It is
timed on random channels of every layer, in turn with ours, and scaled up to all channels.
`--seeds 3` does all of it for three draws of images and directions.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from unbackdoor.checkpoints import checkpoint
from unbackdoor.core.images import Images, to_float
from unbackdoor.core.modules import frozen
from unbackdoor.core.run import Run
from unbackdoor.core.spec import Spec
from unbackdoor.data import open_images
from unbackdoor.models import create
from unbackdoor.network.channels import feature_maps
from unbackdoor.network.layers import Layer, find_layers
from unbackdoor.ranking.ranking import Ranker, Ranking
from unbackdoor.ranking.reverse import Nudge, at_layer
from unbackdoor.training.fit import fit

P = 64


@dataclass
class Tally:
    """Seconds and selections of one way to rank, over all layers."""

    seconds: float = 0.0
    rankings: dict[str, Ranking] = field(default_factory=dict)

    def take(self, layer: Layer, scale: float, rank: Callable[[], Ranking]) -> None:
        """Keeps the ranking of `layer` that `rank` gives, and `scale` times the time it takes."""
        start = time.perf_counter()
        self.rankings[layer.name] = rank()
        self.seconds += (time.perf_counter() - start) * scale


def plainly(
    model: nn.Module, layer: Layer, channel: int, x: Tensor, y: Tensor, signs: Tensor, nudge: Nudge
) -> tuple[float, float]:
    """(accuracy, loss) of one channel by the published procedure."""
    with feature_maps(model, [layer]) as maps:
        with torch.no_grad():
            model(x)
        calm = maps[layer.name][:, channel]
        noisy = (x + nudge.alpha * signs).clamp(0, 1).requires_grad_()
        model(noisy)
        distance = F.mse_loss(maps[layer.name][:, channel], calm, reduction="sum")
    (gradient,) = torch.autograd.grad(distance, noisy)
    moved = nudge.within(noisy.detach() + nudge.stride * gradient.sign(), x)
    with torch.no_grad():
        logits = model(moved)
    hits = (logits.argmax(1) == y).float().mean()
    return float(hits), float(F.cross_entropy(logits, y))


def plain_ranking(
    model: nn.Module,
    layer: Layer,
    channels: Tensor,
    x: Tensor,
    y: Tensor,
    signs: Tensor,
    nudge: Nudge,
) -> Ranking:
    """The ranking of the `channels` of `layer`, in the order of their numbers."""
    found = [plainly(model, layer, c, x, y, signs, nudge) for c in channels.sort().values.tolist()]
    return Ranking(*torch.tensor(found).T)


def agreement(layers: Sequence[Layer], truth: Tally, other: Tally) -> float:
    """The share of `other`'s selected channels that `truth` selects, or could: ties count.

    A channel ties if `truth` gives it the accuracy of the last channel that it selects itself.
    """
    good = total = 0
    for layer in layers:
        count = max(1, layer.channels // P)
        ranking = truth.rankings[layer.name]
        cut = ranking.score[ranking.suspects(count)].max()
        chosen = other.rankings[layer.name].suspects(count)
        good += int((ranking.score[chosen] <= cut + 1e-6).sum())
        total += count
    return good / total


def same(layers: Sequence[Layer], truth: Tally, other: Tally) -> float:
    """The share of `truth`'s selected channels that `other` selects too; ties do not count."""
    both = total = 0
    for layer in layers:
        count = max(1, layer.channels // P)
        masks = [tally.rankings[layer.name].suspects(count) for tally in (truth, other)]
        both += int((masks[0] & masks[1]).sum())
        total += count
    return both / total


def bench(
    model: nn.Module, x: Tensor, y: Tensor, *, seed: int, sample: int, whole: bool
) -> dict[str, Any]:
    """Ranks all layers in the three ways, layer by layer in turn, and compares."""
    signs = torch.randint(0, 2, x.shape, generator=Run(seed).rng("start")).to(x) * 2 - 1
    nudge, run = Nudge(0.06, 0.02, 1), Run(seed)
    layers = find_layers(model, x[:2])
    ranker = Ranker(model, x, y, signs, nudge, run)
    plain, exact, fast = Tally(), Tally(), Tally()
    rng = Run(seed).rng("sample")
    warm_up(model, ranker, layers, (x, y, signs, nudge))
    for layer in layers:
        chosen = torch.randperm(layer.channels, generator=rng)
        chosen = chosen if whole else chosen[:sample]
        count = max(1, layer.channels // P)
        scale = layer.channels / len(chosen)
        plain.take(layer, scale, partial(plain_ranking, model, layer, chosen, x, y, signs, nudge))
        exact.take(layer, 1, partial(ranker.rank, layer, count, lambda _: None))
        fast.take(layer, 1, partial(ranker.race, layer, count, lambda _: None))
    truth = plain if whole else exact
    with frozen(model):
        floor, peak = floor_gflop(model, layers, x), matmul_gflops(run.dtype)
    return {
        "seed": seed,
        "channels": sum(layer.channels for layer in layers),
        "images": len(x),
        "floor_gflop": floor,
        "matmul_gflops": peak,
        "fraction_of_matmul": floor / exact.seconds / peak,
        "plain_seconds": plain.seconds,
        "exact_seconds": exact.seconds,
        "fast_seconds": fast.seconds,
        "exact_ratio": plain.seconds / exact.seconds,
        "fast_ratio": plain.seconds / fast.seconds,
        "agreement_with": "plain" if whole else "exact",
        "exact_agreement": agreement(layers, truth, exact) if whole else None,
        "fast_agreement": agreement(layers, truth, fast),
        "exact_same": same(layers, truth, exact) if whole else None,
        "fast_same": same(layers, truth, fast),
        "selected": {
            layer.name: {
                name: tally.rankings[layer.name]
                .suspects(max(1, layer.channels // P))
                .nonzero()
                .flatten()
                .tolist()
                for name, tally in (("plain", plain), ("exact", exact), ("fast", fast))
                if whole or tally is not plain
            }
            for layer in layers
        },
    }


def over_seeds(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One result of one a seed: mean seconds, their ratios, mean agreements, all selections."""
    merged = dict(results[0])
    for name in results[0]:
        if name.endswith(("_seconds", "_agreement", "_same")) and merged[name] is not None:
            merged[name] = statistics.fmean(result[name] for result in results)
    for name in ("exact", "fast"):
        merged[f"{name}_ratio"] = merged["plain_seconds"] / merged[f"{name}_seconds"]
    merged["fraction_of_matmul"] = (
        merged["floor_gflop"] / merged["exact_seconds"] / merged["matmul_gflops"]
    )
    merged["seeds"] = [result["seed"] for result in results]
    merged["selected"] = {result["seed"]: result["selected"] for result in results}
    return merged


def floor_gflop(model: nn.Module, layers: Sequence[Layer], x: Tensor) -> float:
    """The least work of a ranking of all channels on all images `x`, in 10^9 operations.

    For each channel and image one backward pass from the layer's input to the image, and one
    forward pass; what all channels of a layer share is left out.
    """
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model(x[:1])
    total = 0
    for layer in layers:
        leaf = x[:1].clone().requires_grad_()
        inputs, _ = at_layer(model, layer, leaf)
        with FlopCounterMode(display=False) as backward:
            torch.autograd.grad(inputs, leaf, torch.ones_like(inputs))
        total += layer.channels * (forward.get_total_flops() + backward.get_total_flops())
    return total * len(x) / 1e9


def matmul_gflops(dtype: torch.dtype, side: int = 2048) -> float:
    """What the machine reaches in a square matrix product, in 10^9 operations a second."""
    a, b = (torch.randn(side, side).to(dtype) for _ in range(2))
    best = min(timed(lambda: a @ b) for _ in range(6))
    return 2 * side**3 / best / 1e9


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def warm_up(
    model: nn.Module,
    ranker: Ranker,
    layers: Sequence[Layer],
    plainly_on: tuple[Tensor, Tensor, Tensor, Nudge],
) -> None:
    """Each way once on the last layer's first channel, so that libraries have made their plans."""
    plainly(model, layers[-1], 0, *plainly_on)
    ranker.rank(layers[0], 1, lambda _: None)
    ranker.race(layers[0], 1, lambda _: None)


def victim(given: argparse.Namespace) -> tuple[nn.Module, Images]:
    """The model to rank, and clean images; without a checkpoint, a net trained on digits."""
    if given.model:
        model = checkpoint.load(given.model)
        return model, open_images(given.clean, size=(32, 32), channels=3)
    train, clean = open_images("digits:train"), open_images("digits:test")
    spec = Spec("preact_resnet18", train.classes, (0.5,) * 3, (0.5,) * 3, {"width": given.width})
    run = Run(given.seed)
    model = create(spec, run.rng("init"))
    fit(model, train, run, epochs=3, lr=0.05, flip=False)
    return model.eval(), clean


def main() -> None:
    """Runs the comparison and prints it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="width 16, under two minutes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--model", help="a checkpoint; default: a net trained on digits for a bit")
    parser.add_argument("--clean", help="images that rank the channels, with --model")
    parser.add_argument("--width", type=int, default=64, help="of the net trained on digits")
    parser.add_argument("--images", type=int, default=32, help="that rank the channels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1, help="draws of images, from --seed on")
    parser.add_argument("--sample", type=int, default=2, help="channels a layer ranked plainly")
    parser.add_argument("--all", action="store_true", help="rank every channel plainly as well")
    given = parser.parse_args()
    if given.quick:
        given.width, given.all = 16, True
    model, clean = victim(given)
    model = model.to(memory_format=torch.channels_last)
    results = []
    for seed in range(given.seed, given.seed + given.seeds):
        chosen = clean.sample(given.images, Run(seed).rng("ranking images"))
        results.append(
            bench(
                model,
                to_float(chosen.pixels).contiguous(memory_format=torch.channels_last),
                chosen.labels,
                seed=seed,
                sample=given.sample,
                whole=given.all,
            )
        )
    result = over_seeds(results)
    result["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    result["machine"] = (
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    )
    if given.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        if name not in ("seed", "selected"):
            print(
                f"{name:>18}  {value:.3g}" if isinstance(value, float) else f"{name:>18}  {value}"
            )


if __name__ == "__main__":
    main()
