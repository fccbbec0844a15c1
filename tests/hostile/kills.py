"""Ends each verb at ten random moments, and counts what is left of it: `make kills`.

Every run is a fork of one process that has imported everything. It is ended by SIGKILL, SIGTERM or
SIGINT, then the same command runs again. Counted is what must never be: a result that looks whole
and is not the one of an undisturbed run, a traceback, a second run that fails, and what a finished
run leaves lying about.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file

from .watch import prepare

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TRAIN = ["-p", "epochs=3", "-p", "batch=32"]
TUNE = ["--defense", "fine_tuning", "-p", "epochs=20", "-p", "batch=32"]
DIGITS = ["--data", "digits:train", "--test", "digits:test"]
OUT = ["--out", "out"]
NET = ["--arch", "preact_resnet18", "--model-option", "width=4", "--model-option", "in_channels=1"]
GRID = """
seeds = [0]
budgets = [60]
defenses = ["clp", {name = "fine_tuning", epochs = 2}, {name = "anp"}]
[training]
epochs = 2
[[data]]
name = "digits"
[[architectures]]
name = "preact_resnet18"
width = 4
in_channels = 1
[[attacks]]
name = "badnets"
"""


@dataclass(frozen=True)
class Verb:
    """A command, where its result goes, and what of it must be there and always the same.

    The first of these says that the result is whole.
    """

    name: str
    command: list[str]
    result: str
    fixed: tuple[str, ...]


VERBS = (
    Verb(
        "attack",
        ["attack", "badnets", *DIGITS, *NET, *TRAIN, "--min-asr", "0", *OUT],
        "out",
        ("record.json", "victim.safetensors"),
    ),
    Verb(
        "repair",
        ["repair", "victim.safetensors", "--clean", "digits:test", *TUNE, *OUT],
        "out",
        ("record.json", "model.safetensors", "report.html", "model_card.md"),
    ),
    Verb(
        "scan",
        ["scan", "victim.safetensors", "--clean", "digits:test", "--fail-on", "never", *OUT],
        "out",
        ("record.json", "report.html", "scan.sarif", "model.cdx.json"),
    ),
    Verb("bench", ["bench", "grid.toml", *OUT], "out", ()),
    Verb("report", ["report", "results", "--out", "out"], "out", ("index.html", "groups.csv")),
    Verb("convert", ["convert", "victim.safetensors", "out.safetensors"], "out.safetensors", ("",)),
)


def main() -> int:
    """Prints the counts; 1 if anything was wrong."""
    asked = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    asked.add_argument("--times", type=int, default=10, help="of each verb")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--only", help="one verb")
    told = asked.parse_args()
    prepare()
    rng, total = random.Random(told.seed), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        _given(base)
        for verb in VERBS:
            if told.only in (None, verb.name):
                found = _ended(verb, base, told.times, rng)
                print(f"{verb.name}: " + ", ".join(f"{n} {what}" for what, n in found.items()))
                total += found
    wrong = sum(n for what, n in total.items() if what not in ("runs", "ended", "finished before"))
    print(f"all: {total['runs']} runs, {total['ended']} ended in their midst, {wrong} wrong")
    return 1 if wrong else 0


def _given(base: Path) -> None:
    """The victim that is repaired and converted, and the results that are reported."""
    (base / "grid.toml").write_text(GRID)
    attack = VERBS[0].command
    for command in (attack, ["bench", "grid.toml", "--out", "results"]):
        code = _wait(_forked(command, base, base / "log"))
        if code:
            raise SystemExit(f"{command} ended with {code}: {(base / 'log').read_text()}")
    found = next(path for path in (base / "out").glob("*.safetensors"))
    shutil.copy(found, base / "victim.safetensors")
    shutil.rmtree(base / "out")


def _ended(verb: Verb, base: Path, times: int, rng: random.Random) -> Counter[str]:
    began = time.monotonic()
    whole = _place(base)
    code = _wait(_forked(verb.command, whole, whole / "log"))
    lasted, wanted = time.monotonic() - began, _hashes(verb, whole)
    if code:
        raise SystemExit(f"{verb.name} ended with {code}: {(whole / 'log').read_text()}")
    found: Counter[str] = Counter(runs=0, ended=0)
    for number in range(times):
        place = _place(base)
        pid = _forked(verb.command, place, place / "log")
        time.sleep(rng.uniform(0, lasted))
        with suppress(ProcessLookupError):
            os.kill(pid, SIGNALS[number % len(SIGNALS)])
        first = _wait(pid)
        found["runs"] += 1
        found["ended" if first else "finished before"] += 1
        looks = _hashes(verb, place)
        if looks and looks != wanted:
            found["half-written"] += 1
        if first or verb.name == "bench":
            again = _wait(_forked(verb.command, place, place / "log2"))
            found["second runs that failed"] += again != 0
        found["other results"] += _hashes(verb, place) != wanted
        texts = [path.read_text() for path in (place / "log", place / "log2") if path.exists()]
        found["tracebacks"] += any("Traceback" in text for text in texts)
        left = [p.name for p in place.iterdir() if p.name.startswith(".")]
        found["left over"] += bool(left)
        if left or (looks and looks != wanted):
            print(verb.name, SIGNALS[number % 3].name, first, left, looks, file=sys.stderr)
        shutil.rmtree(place)
    return +found


def _place(base: Path) -> Path:
    place = Path(tempfile.mkdtemp(dir=base))
    for name in ("grid.toml", "victim.safetensors"):
        shutil.copy(base / name, place / name)
    (place / "results").symlink_to(base / "results")
    return place


def _hashes(verb: Verb, place: Path) -> dict[str, str]:
    """What a result says, but for times: empty where there is none that looks whole."""
    out = place / verb.result
    if verb.name == "bench":
        cells = sorted(out.glob("cells/[!.]*.json"))
        told = {path.name: json.loads(path.read_text()) for path in cells}
        kept = {name: [cell["status"], cell.get("after")] for name, cell in told.items()}
        return {name: json.dumps(cell) for name, cell in kept.items()} if len(kept) == 6 else {}
    paths = [out / name if name else out for name in verb.fixed]
    if not paths[0].exists():
        return {}
    return {path.name: _told(path) for path in paths}


def _told(path: Path) -> str:
    """What a file says, but for when it was written: its tensors, its keys, its text's presence."""
    if not path.exists():
        return "missing"
    if path.suffix == ".safetensors":
        tensors = sorted(load_file(path).items())
        parts = b"".join(name.encode() + tensor.numpy().tobytes() for name, tensor in tensors)
        return hashlib.sha256(parts).hexdigest()
    if path.suffix == ".json":
        return str(sorted(json.loads(path.read_text())))
    return path.read_text()[-20:]


def _forked(command: list[str], place: Path, log: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.chdir(place)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.environ["XDG_CACHE_HOME"] = str(place / "cache")
        from unbackdoor.cli import main as program

        code = program(command)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - it is counted
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    sys.exit(main())
