"""Recall: found again by everything that it depends on, and by nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from unbackdoor.images import Images
from unbackdoor.recall import Learned, recall
from unbackdoor.run import Run

IMAGES = Images(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1]), ("a", "b"))
OTHERS = Images(torch.ones(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1]), ("a", "b"))
START = {"weight": torch.zeros(3, dtype=torch.bfloat16), "steps": torch.tensor(1)}


class Learner:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Learned:
        self.calls += 1
        return {"x": torch.full((2,), float(self.calls))}


def test_learns_once_and_gives_the_same_tensors(tmp_path: Path) -> None:
    learn, run = Learner(), Run(cache=tmp_path)
    for _ in range(2):
        found = recall(run, "lf", {"steps": 3}, START, IMAGES, learn)
        assert found["x"].tolist() == [1, 1]
    assert learn.calls == 1
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


def test_without_a_folder_it_learns_each_time() -> None:
    learn = Learner()
    for _ in range(2):
        recall(Run(), "lf", {}, START, IMAGES, learn)
    assert learn.calls == 2


@pytest.mark.parametrize("change", ["name", "asked", "start", "images", "seed", "precision"])
def test_whatever_it_depends_on_makes_it_learn_again(change: str, tmp_path: Path) -> None:
    learn = Learner()
    recall(Run(cache=tmp_path, precision="fp32"), "lf", {"steps": 3}, START, IMAGES, learn)
    recall(
        Run(
            seed=int(change == "seed"),
            precision="bf16" if change == "precision" else "fp32",
            cache=tmp_path,
        ),
        "sig" if change == "name" else "lf",
        {"steps": 4 if change == "asked" else 3},
        {"weight": START["weight"] + 1, "steps": START["steps"]} if change == "start" else START,
        OTHERS if change == "images" else IMAGES,
        learn,
    )
    assert learn.calls == 2


def test_a_torn_file_is_learned_anew(tmp_path: Path) -> None:
    learn, run = Learner(), Run(cache=tmp_path)
    recall(run, "lf", {}, START, IMAGES, learn)
    next(tmp_path.iterdir()).write_bytes(b"half")
    assert recall(run, "lf", {}, START, IMAGES, learn)["x"].tolist() == [2, 2]
