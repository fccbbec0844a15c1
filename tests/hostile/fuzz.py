"""Damaged copies of good files, reader by reader, for a set time: `make fuzz MINUTES=5`.

Each copy comes of a seed, its reader and its number, so a find is made again by naming them. Finds
are kept in `hostile-finds/`, which git ignores; what is mended joins the corpus.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from report import bench_samples

from . import grids, hubs, watch
from .campaign import report
from .inputs import CONVERT, EITHER, EVALUATE, Input, written
from .pictures import picture
from .records import REPORT, VALUES, changed, places
from .samples import bench_result, png, small_model
from .watch import PROBLEMS

FINDS = Path("hostile-finds")
ODD = (
    *(
        b"\0",
        b"\xff",
        b"\xff\xff\xff\xff",
        b"\xff\xff\xff\x7f",
        b"\0\0\0\x80",
        b"\xff" * 8,
        b"9" * 5_000,
    ),
    *(
        b"-1",
        b"NaN",
        b"1e999",
        b"[",
        b"{",
        b'"',
        b"\\",
        b"../",
        b"\x1b[31m",
        b"null",
        b"\n",
        b"'''",
        b"=[[",
    ),
    *(
        b"cos\nsystem\n",
        b"\x8c\x02os\x8c\x06system\x93",
        b"\x85R",
        b"(t",
        b"Q",
        b"}",
        b"]",
        b"\x81",
        b"b",
        b"h\x00",
    ),
)
"""What is put in: numbers at the edges, what closes or opens, opcodes that call."""

Files = dict[str, bytes]


def _weights() -> dict[str, torch.Tensor]:
    return {"conv.weight": torch.ones(2, 3), "conv.bias": torch.arange(2.0), "n": torch.tensor(3)}


def _torch(folder: Path, legacy: bool = False) -> None:
    value = {"model": _weights(), "epoch": 3, "args": {"lr": 0.1}, "a": np.ones(2)}
    torch.save(value, folder / "a.pt", _use_new_zipfile_serialization=not legacy)


def _module(folder: Path) -> None:
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)), folder / "a.pt")


def _script(folder: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), folder / "a.pt")


def _safetensors(folder: Path) -> None:
    small_model(folder / "a.pt")


def _npz(folder: Path) -> None:
    small_model(folder / "m.safetensors")
    images, labels = np.zeros((2, 16, 16, 3), "u1"), np.array([0, 1])
    np.savez(folder / "a.npz", x=images, y=labels, classes=np.array(["cat", "dog", "eel"]))


def _parquet(folder: Path) -> None:
    from .tables import table

    small_model(folder / "m.safetensors")
    table(folder, labels=[0, 1], names=["cat", "dog", "eel"])


def _images(kind: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        small_model(folder / "m.safetensors")
        written(folder / "images" / "cat" / "a.png", picture(kind))
        written(folder / "images" / "dog" / "b.png", png())

    return make


def _stamped(folder: Path) -> None:
    small_model(folder / "m.safetensors")
    bench_result(folder, {"a": torch.ones(1)}, [(0, 1), (0, 2)])


def _hub(folder: Path) -> None:
    hubs.hub(folder, hubs.VIT, json.dumps({"image_mean": [0.5], "image_std": [0.5], "size": 16}))


def _results(folder: Path) -> None:
    bench_samples.folder(folder / "res", attacks=("badnets",), defenses=("fmp",), seeds=1)


def _grid(folder: Path) -> None:
    written(folder / "a.toml", grids.GOOD)


HUB = ["convert", "hub", "out/m.safetensors"]
STAMPED = ["evaluate", "m.safetensors", "--triggered", "attack_result.pt"]
READERS: dict[str, tuple[Callable[[Path], None], str, list[str]]] = {
    "torch": (_torch, "a.pt", CONVERT),
    "legacy": (lambda folder: _torch(folder, True), "a.pt", CONVERT),
    "module": (_module, "a.pt", CONVERT),
    "torchscript": (_script, "a.pt", CONVERT),
    "safetensors": (_safetensors, "a.pt", CONVERT),
    "npz": (_npz, "a.npz", [*EVALUATE, "a.npz"]),
    "parquet": (_parquet, "a.parquet", [*EVALUATE, "a.parquet"]),
    **{
        kind: (_images(kind), "images/cat/a.png", [*EVALUATE, "images"])
        for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
    },
    "backdoorbench": (_stamped, "attack_result.pt", STAMPED),
    "hub": (_hub, "hub/*.json", HUB),
    "grid": (_grid, "a.toml", grids.BENCH),
    "results": (_results, "res/*/*.json", REPORT),
}
"""By reader: what makes good files, which of them are damaged, and the command that reads them."""


def good(reader: str) -> Files:
    """Good files of a reader, made in a process of its own: libraries may start threads there."""
    with tempfile.TemporaryDirectory() as name:
        pid = os.fork()
        if pid == 0:
            try:
                warnings.simplefilter("ignore")
                READERS[reader][0](Path(name))
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        found = sorted(path for path in Path(name).rglob("*") if path.is_file())
        return {os.fspath(path.relative_to(name)): path.read_bytes() for path in found}


def damaged(data: bytes, rng: random.Random) -> bytes:
    """`data` after a few of the ways in which bytes can be wrong."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at, length = rng.randrange(len(found) + 1), rng.choice((1, 2, 4, 8, 64))
        way = rng.randrange(6)
        if way == 0 and at < len(found):
            found[at] ^= 1 << rng.randrange(8)
        elif way == 1:
            found[at : at + length] = rng.randbytes(length)
        elif way == 2:
            del found[at : at + length]
        elif way == 3:
            found[at:at] = rng.choice(ODD)
        elif way == 4:
            odd = rng.choice(ODD)
            found[at : at + len(odd)] = odd
        else:
            found[at:at] = found[rng.randrange(len(found) + 1) :][:length] * rng.choice((1, 1, 100))
    return bytes(found[: rng.randrange(len(found) + 1)] if rng.random() < 0.05 else found)


def restructured(data: bytes, rng: random.Random) -> bytes:
    """JSON in which something else stands in a few places."""
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        every = list(places(value))
        if every:
            value = changed(value, rng.choice(every), rng.choice(list(VALUES.values())))
    return json.dumps(value).encode()


def copy(reader: str, files: Files, seed: int, number: int) -> Input:
    """One damaged copy."""
    _, pattern, command = READERS[reader]

    def make(folder: Path) -> list[str]:
        rng = random.Random(f"{seed} {reader} {number}")
        name = rng.choice([name for name in sorted(files) if Path(name).match(pattern)])
        for other, data in files.items():
            written(folder / other, data)
        way = restructured if name.endswith(".json") and rng.random() < 0.7 else damaged
        written(folder / name, way(files[name], rng))
        return command

    return Input(reader, f"number {number} of seed {seed}", make, EITHER)


def _copies(reader: str, seed: int) -> Iterator[Input]:
    files = good(reader)
    return (copy(reader, files, seed, number) for number in itertools.count())


def _kept(one: Input, problems: dict[str, str]) -> None:
    folder = FINDS / f"{one.reader}-{one.name.replace(' ', '-')}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = one.make(folder)
    told = {"command": list(command), "problems": problems}
    written(folder / "find.json", json.dumps(told, indent=1))


def main() -> int:
    asked = argparse.ArgumentParser(prog="hostile.fuzz", description=__doc__)
    asked.add_argument("--minutes", type=float, default=5)
    asked.add_argument(
        "--seed", type=int, default=int(time.time()), help="by default another each time"
    )
    asked.add_argument("--reader", choices=tuple(READERS), help="only this one")
    asked.add_argument("--only", type=int, help="only the copy of this number")
    asked.add_argument("--workers", type=int, default=2)
    given = asked.parse_args()
    readers = [given.reader] if given.reader else list(READERS)
    watch.prepare()
    began, outcomes = time.monotonic(), []
    print(f"seed {given.seed}")
    for reader in readers:
        until = time.monotonic() + 60 * given.minutes / len(readers)
        copies = _copies(reader, given.seed)
        if given.only is not None:
            copies, until = iter([copy(reader, good(reader), given.seed, given.only)]), None
        with tempfile.TemporaryDirectory(prefix="hostile-") as root:
            for one in watch.run(copies, Path(root), given.workers, until):
                outcomes.append(one)
                if one.problems:
                    _kept(one.input, one.problems)
                    number = one.input.name.split()[1]
                    print(f"{one.problems!r:.600}", flush=True)
                    print(f"  again: --reader {reader} --seed {given.seed} --only {number}")
    told = report(outcomes, time.monotonic() - began)
    return int(any(told[name] for name in PROBLEMS))


if __name__ == "__main__":
    sys.exit(main())
