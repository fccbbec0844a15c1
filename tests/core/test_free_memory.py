"""Memory: what is free, what a step takes, and one line before it is too much."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from unbackdoor.attacks.badnets import BadNets
from unbackdoor.core import memory
from unbackdoor.core.errors import ModelError
from unbackdoor.core.images import Images
from unbackdoor.core.measure import logits
from unbackdoor.core.run import Run
from unbackdoor.defenses.fine_tuning import FineTuning

RUN = Run(precision="fp32")


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files by which Linux tells the memory: 8 GiB free, no group."""
    monkeypatch.setattr(memory, "TABLE", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "MINE", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "groups")
    (tmp_path / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {8 << 20} kB\n")
    return tmp_path


def free() -> float:
    return memory.free_bytes(torch.device("cpu"))


def test_the_system_tells_its_free_memory(system: Path) -> None:
    assert free() == 8 << 30
    assert memory.free_bytes(torch.device("meta")) == math.inf
    (system / "meminfo").write_text("nothing here\n")
    assert free() == math.inf


@pytest.mark.parametrize("inside", ["mine/deep", ""])
@pytest.mark.parametrize(
    ("line", "folder", "names"),
    [
        ("0::/mine/deep", "", ("memory.max", "memory.current")),
        ("4:memory:/mine/deep", "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")),
    ],
)
def test_a_container_s_limit_counts(
    line: str, folder: str, names: tuple[str, str], inside: str, system: Path
) -> None:
    place = system / "groups" / folder / inside
    place.mkdir(parents=True)
    (system / "cgroup").write_text(f"{line}\n1:cpu:/other\n")
    (place / names[0]).write_text(f"{2 << 30}\n")
    (place / names[1]).write_text(f"{3 << 29}\n")
    (place / "memory.stat").write_text(f"anon 5\ninactive_file {1 << 20}\n")
    assert free() == (2 << 30) - (3 << 29) + (1 << 20)


def test_a_group_without_a_limit_does_not_count(system: Path) -> None:
    place = system / "groups"
    place.mkdir()
    (system / "cgroup").write_text("0::/\n")
    for name, told in (("memory.max", "max\n"), ("memory.current", "5\n"), ("memory.stat", "")):
        (place / name).write_text(told)
    assert free() == 8 << 30


def images(n: int) -> Images:
    return Images(torch.zeros(n, 3, 8, 8, dtype=torch.uint8), torch.zeros(n).long(), ("a", "b"))


class Seen(nn.Module):
    """A network that keeps how many images each of its passes had."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.head, self.passes = nn.Flatten(), nn.Linear(192, 2), list[int]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The logits."""
        self.passes.append(len(x))
        out: torch.Tensor = self.head(self.flat(x))
        return out


def test_measuring_takes_smaller_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, each = Seen(), 4 * 4 * 192
    whole = logits(model, images(64), RUN, batch=64)
    assert model.passes[-1] == 64
    monkeypatch.setattr(memory, "free_bytes", lambda _: 2 * 16 * each)
    model.passes.clear()
    assert torch.allclose(logits(model, images(64), RUN, batch=64), whole)
    assert model.passes[1:] == [16, 16, 16, 16]


def test_a_repair_that_does_not_fit_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Seen()
    each = 2 * 4 * (192 + 192 + 2) * memory.SHARE
    fixed = 4 * 4 * (192 * 2 + 2)
    monkeypatch.setattr(memory, "free_bytes", lambda _: fixed + 40 * each)
    FineTuning(epochs=1, batch=40).repair(model, images(40), RUN)
    FineTuning(epochs=1, batch=256).repair(model, images(40), RUN)  # no step has more than 40
    with pytest.raises(ModelError, match=r"41 images of 8x8 .* smaller batch \(-p batch=32\)"):
        FineTuning(epochs=1, batch=41).repair(model, images(41), RUN)
    monkeypatch.setattr(memory, "free_bytes", lambda _: 0)
    with pytest.raises(ModelError, match="close other programs"):
        FineTuning(epochs=1, batch=4).repair(model, images(4), RUN)


def test_a_victim_that_does_not_fit_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda _: 0)
    with pytest.raises(ModelError, match="of memory"):
        BadNets(epochs=1).plant(Seen(), images(40), RUN)
