"""Recall: found again by everything that it depends on, and by nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from unbackdoor.core.images import Images
from unbackdoor.core.recall import Learned, recall
from unbackdoor.core.run import Run

IMAGES = Images(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1]), ("a", "b"))
OTHERS = Images(torch.ones(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1]), ("a", "b"))


class Start(nn.Module):
    """Weights of 16 bits, and a mean that the state dict does not hold."""

    def __init__(self, weight: float = 0.0, mean: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), weight, dtype=torch.bfloat16))
        self.register_buffer("mean", torch.tensor(mean), persistent=False)


class Learner:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Learned:
        self.calls += 1
        return {"x": torch.full((2,), float(self.calls))}


def test_learns_once_and_gives_the_same_tensors(tmp_path: Path) -> None:
    learn, run = Learner(), Run(cache=tmp_path)
    for _ in range(2):
        found = recall(Start(), run, "lf", {"steps": 3}, IMAGES, learn)
        assert found["x"].tolist() == [1, 1]
    assert learn.calls == 1
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


def test_without_a_folder_it_learns_each_time() -> None:
    learn = Learner()
    for _ in range(2):
        recall(Start(), Run(), "lf", {}, IMAGES, learn)
    assert learn.calls == 2


@pytest.mark.parametrize(
    "change", ["name", "asked", "weights", "mean", "images", "seed", "precision", "version"]
)
def test_whatever_it_depends_on_makes_it_learn_again(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = Learner()
    if change == "version":
        monkeypatch.setattr("unbackdoor.core.recall.__version__", "0.0.0")
    recall(Start(), Run(cache=tmp_path, precision="fp32"), "lf", {"steps": 3}, IMAGES, learn)
    monkeypatch.undo()
    recall(
        Start(float(change == "weights"), float(change == "mean")),
        Run(
            seed=int(change == "seed"),
            precision="bf16" if change == "precision" else "fp32",
            cache=tmp_path,
        ),
        "sig" if change == "name" else "lf",
        {"steps": 4 if change == "asked" else 3},
        OTHERS if change == "images" else IMAGES,
        learn,
    )
    assert learn.calls == 2


def test_a_torn_file_is_learned_anew(tmp_path: Path) -> None:
    learn, run = Learner(), Run(cache=tmp_path)
    recall(Start(), run, "lf", {}, IMAGES, learn)
    next(tmp_path.iterdir()).write_bytes(b"half")
    assert recall(Start(), run, "lf", {}, IMAGES, learn)["x"].tolist() == [2, 2]
