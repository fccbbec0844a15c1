"""How many images of 32 x 32 a second each trigger in closed form stamps; the goal is 20,000.

python benchmarks/stamp.py
python benchmarks/stamp.py --images 2000 --json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence

import torch

from unbackdoor.attacks.base.attack import Attack
from unbackdoor.core import method

GOAL = 20_000
PART = 1000


def closed_forms() -> list[Attack]:
    """The attacks whose stamp is known without learning anything."""
    attacks = [method.build("attack", name) for name in method.names("attack")]
    known = [attack for attack in attacks if isinstance(attack, Attack)]
    return [attack for attack in known if type(attack).stamp is not Attack.stamp]


def rate(attack: Attack, x: torch.Tensor, rounds: int = 3) -> float:
    """Images a second, the best of some rounds."""
    attack.stamp(x[:PART])
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        for part in x.split(PART):
            attack.stamp(part)
        seconds.append(time.perf_counter() - start)
    return len(x) / min(seconds)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a line for each trigger, or all as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(argv)
    x = torch.rand(given.images, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    rates = {attack.name(): round(rate(attack, x)) for attack in closed_forms()}
    if given.json:
        print(json.dumps({"threads": torch.get_num_threads(), "goal": GOAL, "rates": rates}))
        return
    print(f"images of 32 x 32 a second, {torch.get_num_threads()} threads; goal {GOAL}")
    for name, found in rates.items():
        print(f"{name:18} {found:>10,}{'' if found >= GOAL else '   below the goal'}")


if __name__ == "__main__":
    main()
