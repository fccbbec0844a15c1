"""How the time of the exact FMP ranking grows with the images and with the channels.

    python benchmarks/fmp_scaling.py

Ranks layers of 128 channels on 8 to 128 images, and layers of 32 to 256 channels, all at the same
depth and map size, on 32 images. Doubling either should double the seconds: they are of processor
time, so that neighbours on the machine matter less.
"""

from __future__ import annotations

import statistics
import time
from itertools import pairwise

import torch
from torch import nn

from unbackdoor.core.run import Run
from unbackdoor.network.layers import find_layers
from unbackdoor.ranking.ranking import Ranker
from unbackdoor.ranking.reverse import Nudge


def network(channels: int) -> nn.Module:
    """Convolutions of fixed cost around one layer, the third, of this many `channels`."""
    widths = (3, 64, 64, channels, 64)
    parts: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        size = 1 if channels in (inputs, outputs) and inputs != 3 else 3
        parts += [nn.Conv2d(inputs, outputs, size, padding=size // 2), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()


def seconds(channels: int, images: int, rounds: int = 3) -> float:
    """The median processor time to rank that layer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = network(channels), torch.rand(images, 3, 16, 16)
    y, signs, run = torch.zeros(images, dtype=torch.int64), torch.ones_like(x), Run()
    ranker = Ranker(model, x, y, signs, Nudge(0.06, 0.02, 1), run)
    layer = find_layers(model, x[:2])[2]
    times = []
    for _ in range(rounds + 1):
        start = time.process_time()
        ranker.rank(layer, 1, lambda _: None)
        times.append(time.process_time() - start)
    return statistics.median(times[1:])


def main() -> None:
    """Prints both curves."""
    print("channels  images  seconds")
    for channels, images in [(128, n) for n in (8, 16, 32, 64, 128)] + [
        (c, 32) for c in (32, 64, 128, 256)
    ]:
        print(f"{channels:8}  {images:6}  {seconds(channels, images):7.3f}", flush=True)


if __name__ == "__main__":
    main()
