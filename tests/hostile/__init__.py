"""Files a stranger might send, made by code; and what runs the program on each of them.

One module makes the inputs of each reader. `campaign` runs them all (`make hostile`), `fuzz` runs
damaged copies of good files (`make fuzz MINUTES=5`); `watch` is what looks at each run.
"""

from .samples import Runs, bench_result, touches

__all__ = ["Runs", "bench_result", "touches"]
