"""How long FMP+ takes, over the fine-tuning that it is compared with.

    python benchmarks/repair_time.py                 three pairs on badnets-w16, in turn
    python benchmarks/repair_time.py --victim NAME   on another subject of benchmarks/subjects.py

Whole repairs of one process, one after another, A B A B: the median of the pairs' ratios holds
where single seconds do not. The first pair warms up and is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings

from headline import TUNED
from repairs import Job, mended
from subjects import subject


def seconds(job: Job) -> float:
    """Of one whole repair."""
    judged = subject(job.subject)
    start = time.perf_counter()
    mended(job, judged)
    return time.perf_counter() - start


def main() -> None:
    """Prints each pair, then the medians."""
    asks = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asks.add_argument("--victim", default="badnets-w16")
    asks.add_argument("--pairs", type=int, default=3)
    given = asks.parse_args()
    jobs = Job(given.victim, "fmp_plus"), Job(given.victim, "fine_tuning", TUNED)
    taken = []
    for number in range(given.pairs + 1):
        pair = tuple(seconds(job) for job in jobs)
        ratio = pair[0] / pair[1]
        print(f"fmp_plus {pair[0]:.1f} s, fine_tuning {pair[1]:.1f} s: {ratio:.2f}", flush=True)
        taken += [(*pair, ratio)] if number else []
    ours, theirs, ratio = (statistics.median(column) for column in zip(*taken, strict=True))
    print(f"median of {given.pairs}: {ours:.1f} s, {theirs:.1f} s, ratio {ratio:.2f}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
