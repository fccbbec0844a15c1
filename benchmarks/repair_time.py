"""How long the default repair takes, over ten epochs of fine-tuning on the same clean images.

    python benchmarks/repair_time.py --model MODEL --clean IMAGES

Whole repairs in one process, one after the other, A B A B: the median of the pairs' ratios holds
where single seconds do not. The first pair warms up and is not counted. Seconds are of processor
time, so that neighbours on the machine matter less.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Sequence

from torch import nn

from unbackdoor.checkpoints import checkpoint
from unbackdoor.core.images import Images
from unbackdoor.core.run import Run
from unbackdoor.data import open_images
from unbackdoor.defenses.base.defense import Defense
from unbackdoor.defenses.fine_tuning import FineTuning
from unbackdoor.defenses.uat import UAT

PAIR: tuple[Defense, Defense] = (UAT(), FineTuning(epochs=10))


def seconds(defense: Defense, model: nn.Module, clean: Images) -> float:
    """Processor seconds of one whole repair."""
    start = time.process_time()
    defense.repair(model, clean, Run())
    return time.process_time() - start


def main(argv: Sequence[str] | None = None) -> None:
    """Prints each pair, then the medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True, help="a checkpoint")
    parser.add_argument("--clean", required=True, help="clean images")
    parser.add_argument("--images", type=int, default=5000, help="how many of the clean images")
    parser.add_argument("--pairs", type=int, default=3)
    given = parser.parse_args(argv)
    model = checkpoint.load(given.model)
    clean = open_images(given.clean)[slice(given.images)]
    taken = []
    for number in range(given.pairs + 1):
        ours, theirs = (seconds(defense, model, clean) for defense in PAIR)
        print(f"uat {ours:.1f} s, fine_tuning {theirs:.1f} s: {ours / theirs:.2f}", flush=True)
        if number:
            taken.append((ours, theirs, ours / theirs))
    ours, theirs, ratio = (statistics.median(column) for column in zip(*taken, strict=True))
    print(f"median of {given.pairs}: {ours:.1f} s, {theirs:.1f} s, ratio {ratio:.2f}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
