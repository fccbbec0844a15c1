"""Run: where, how exactly and from which seed a method works, and whom it tells of its progress."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from .errors import ParameterError

Precision = Literal["auto", "fp32", "bf16"]
Progress = Callable[[str, int, int], None]
"""Called with (stage, units done, units in all); the first call of a stage tells what an earlier,
stopped run had done, mostly 0."""
Part = Callable[[str, str], None]
"""Called with (stage, name of the part of it that begins), where a stage has parts."""


def _silent(*_: object) -> None:
    """Tells nobody."""


def pick_device(name: str) -> torch.device:
    """The device called `name`: `auto` (the best there is), `cpu`, `cuda` or `mps`."""
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, usable in there.items() if usable))
    kind = name.split(":")[0]
    if kind not in there:
        raise ParameterError(f"device must be one of auto, cpu, cuda, mps; got {name!r}")
    if not there[kind]:
        raise ParameterError(f"this machine has no usable {kind} device")
    return torch.device(name)


def fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 has units of its own on `device`, so that it is faster than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        has = torch.cpu.get_capabilities()
        return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    return False


@dataclass(frozen=True)
class Run:
    """What a method is given besides its model and images.

    `precision` is that of training and ranking (`auto`: bfloat16 where the device has units for
    it); measurements are always float32. Every random draw comes from `rng` or `isolated`, so the
    same seed gives the same bits on the same kind of machine, and no global state is touched.
    `seconds` fills with the time spent in each stage. `cache` is a folder for what is slow to
    learn and can be learned again, filed by content.
    """

    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Precision = "auto"
    progress: Progress = _silent
    part: Part = field(default=_silent, kw_only=True)
    seconds: dict[str, float] = field(default_factory=dict, compare=False)
    cache: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", torch.device(self.device))  # or the name of one

    def _seed(self, name: str) -> int:
        digest = hashlib.blake2b(f"{self.seed}/{name}".encode(), digest_size=7).digest()
        return int.from_bytes(digest, "big")

    def rng(self, name: str) -> torch.Generator:
        """A CPU generator of its own for the purpose called `name`."""
        return torch.Generator().manual_seed(self._seed(name))

    @contextmanager
    def isolated(self, name: str) -> Iterator[None]:
        """Code inside may draw from torch's global state: it is seeded here, and restored after."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self._seed(name))
            yield

    @property
    def dtype(self) -> torch.dtype:
        """The precision of training and ranking."""
        fast = self.precision == "bf16" or (self.precision == "auto" and fast_bf16(self.device))
        return torch.bfloat16 if fast else torch.float32

    def autocast(self) -> AbstractContextManager[object]:
        """Forward passes inside run in `dtype` where that is safe."""
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16
        )

    @contextmanager
    def stage(self, name: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
        """Yields `advance(units)`, to be called as units of `total` are done; times the whole.

        `done` of them were done before, by a run that was stopped.
        """
        start = time.perf_counter()

        def advance(units: int) -> None:
            nonlocal done
            done += units
            self.progress(name, done, total)

        self.progress(name, done, total)
        try:
            yield advance
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
