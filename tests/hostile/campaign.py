"""Every hostile input, as a person would open it: `make hostile`. Prints what came of them."""

from __future__ import annotations

import argparse
import importlib
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from . import watch
from .inputs import Input
from .watch import PROBLEMS, Outcome

MODULES = (
    *("gadgets", "structures", "scripts", "headers", "arrays", "tables", "pictures", "hubs"),
    *("grids", "records", "calibrations"),
)
SEED = 26


def corpus() -> list[Input]:
    """Every input, sorted so that those of a reader stand together."""
    found = [
        one for name in MODULES for one in importlib.import_module(f"{__package__}.{name}").inputs()
    ]
    names = Counter((one.reader, one.name) for one in found)
    twice = [name for name, count in names.items() if count > 1]
    assert not twice, f"two inputs of one name: {twice[:3]}"
    return found


def parted(inputs: Sequence[Input], tenth: str) -> list[Input]:
    """A tenth of the inputs drawn by a seed, from each reader; or the `rest`, or `all`."""
    order = sorted(
        inputs, key=lambda one: (one.reader, random.Random(f"{SEED} {one.name}").random())
    )
    if tenth == "all":
        return order
    return [one for place, one in enumerate(order) if (place % 10 == 0) == (tenth == "tenth")]


def counts(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """How many inputs there were, how they ended, and how many had which problem."""
    every = list(outcomes)
    told = {"inputs": len(every)}
    told["refused"] = sum(one.code == 2 and not one.problems for one in every)
    told["read"] = sum(one.code == 0 and not one.problems for one in every)
    return told | {name: sum(name in one.problems for one in every) for name in PROBLEMS}


def report(outcomes: Sequence[Outcome], seconds: float) -> dict[str, int]:
    """Prints a line of counts for each reader, and the counts of all."""
    for reader in sorted({one.input.reader for one in outcomes}):
        own = counts(one for one in outcomes if one.input.reader == reader)
        print(f"{reader}: " + ", ".join(f"{count} {name}" for name, count in own.items() if count))
    whole = counts(outcomes)
    print(", ".join(f"{count} {name}" for name, count in whole.items()) + f"; {seconds:.0f} s")
    if outcomes:
        slow = max(outcomes, key=lambda one: one.seconds)
        large = max(outcomes, key=lambda one: one.mib)
        print(f"slowest: {slow.input.name}, {slow.seconds:.1f} s")
        print(f"largest: {large.input.name}, {large.mib:.0f} MiB beyond an idle run")
    return whole


def main() -> int:
    asked = argparse.ArgumentParser(prog="hostile.campaign", description=__doc__)
    asked.add_argument("--part", choices=("all", "tenth", "rest"), default="all")
    asked.add_argument("--reader", help="only inputs of this reader")
    asked.add_argument("--name", help="only inputs whose name holds this")
    asked.add_argument("--workers", type=int, default=2)
    asked.add_argument("--proof", action="store_true", help="inputs that do what must be seen")
    asked.add_argument("--json", type=Path, help="file for the counts")
    asked.add_argument("--verbose", action="store_true", help="what each run said")
    asked.add_argument("--seconds", type=float, default=watch.SECONDS, help="of one run")
    asked.add_argument("--mib", type=int, default=2048, help="beyond an idle run")
    given = asked.parse_args()
    watch.SECONDS, watch.MOST_BYTES = given.seconds, given.mib * 2**20
    if given.proof:
        from . import proof

        chosen = list(proof.inputs())
    else:
        chosen = parted(corpus(), given.part)
    chosen = [one for one in chosen if given.reader in (None, one.reader)]
    chosen = [one for one in chosen if (given.name or "") in one.name]
    watch.prepare()
    began, outcomes = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="hostile-") as root:
        for one in watch.run(chosen, Path(root), given.workers):
            outcomes.append(one)
            for name, told in one.problems.items():
                print(f"{name}: {one.input.reader}: {one.input.name}: {told!r}", flush=True)
            if given.verbose:
                print(f"{one.seconds:5.1f} s {one.mib:6.0f} MiB {one.code} {one.input.name}")
                print("    " + one.said.strip()[-300:].replace("\n", "\n    "))
    told = report(outcomes, time.monotonic() - began)
    if given.json:
        given.json.write_text(json.dumps(told))
    return int(any(told[name] for name in PROBLEMS))


if __name__ == "__main__":
    sys.exit(main())
