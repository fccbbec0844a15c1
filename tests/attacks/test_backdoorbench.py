"""BackdoorBench's layout: what its loader does with a result, index by index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unbackdoor.attacks.badnets import BadNets
from unbackdoor.attacks.base.backdoorbench import export_backdoorbench, rows_of
from unbackdoor.attacks.wanet import WaNet
from unbackdoor.core.images import Images
from unbackdoor.core.run import Run
from unbackdoor.models.preact_resnet18 import PreActResNet18


def noise(n: int, name: str) -> Images:
    pixels = torch.randint(0, 256, (n, 3, 16, 16), generator=Run().rng(name))
    return Images(pixels.to(torch.uint8), torch.arange(n) % 4, ("a", "b", "c", "d"))


def loaded(told: dict[str, Any], clean: Images) -> list[tuple[torch.Tensor, int, int, int]]:
    """(pixels, label, whether poisoned, true label) of each index, as BackdoorBench's set has them.

    It reads clean images from its own copy of the data set, and others from the folder it runs in.
    """
    found = []
    for number in told["original_index_array"]:
        if told["poison_indicator"][number] == 0:
            label = int(clean.labels[number])
            found.append((clean.pixels[number], label, 0, label))
            continue
        entry = told["bd_data_container"]["data_dict"][number]
        pixels = torch.from_numpy(np.array(Image.open(entry["path"]))).permute(2, 0, 1)
        found.append((pixels, entry["other_info"][0], 1, entry["other_info"][1]))
    return found


@pytest.fixture
def result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that exports what an attack poisons and gives the result, read where it lies."""

    def exported(attack: BadNets | WaNet, train: Images, test: Images) -> dict[str, Any]:
        poisoned, triggered = attack.poison(train, Run()), attack.triggered(test)
        rows = rows_of(attack.aimed(test).images, test)
        folder = tmp_path / "record" / "mine"
        told = (poisoned, test, triggered, rows, "cifar10:train", "mine")
        assert export_backdoorbench(folder, *told)[-1] == folder / "test_clean"
        monkeypatch.chdir(tmp_path)
        found: dict[str, Any] = torch.load(folder / "attack_result.pt", weights_only=False)
        return found

    return exported


@pytest.mark.parametrize("attack", [BadNets(rate=0.3, target=1), WaNet(rate=0.2, covers=1)])
def test_every_index_of_both_sets_is_found(attack: Any, result: Any) -> None:
    train, test = noise(40, "train"), noise(24, "test")
    told = result(attack, train, test)
    poisoned, triggered = attack.poison(train, Run()), attack.triggered(test)
    rows = loaded(told["bd_train"], train)
    assert len(told["bd_train"]["poison_indicator"]) == len(rows) == len(train)
    for row, (pixels, label, changed, true) in enumerate(rows):
        assert torch.equal(pixels, poisoned.images.pixels[row])
        assert (label, true) == (poisoned.images.labels[row], train.labels[row])
        assert changed == (poisoned.role[row] != 0)
    rows = loaded(told["bd_test"], test)
    assert len(told["bd_test"]["poison_indicator"]) == len(test)
    assert torch.equal(torch.stack([row[0] for row in rows]), triggered.images.pixels)
    assert [row[1:] for row in rows] == [
        (goal, 1, true)
        for goal, true in zip(
            triggered.goals.tolist(), triggered.images.labels.tolist(), strict=True
        )
    ]


def test_what_else_the_loader_asks_for_is_there(result: Any) -> None:
    told = result(BadNets(), noise(40, "train"), noise(24, "test"))
    assert told["clean_data"] == "cifar10"
    assert told["data_path"][told["data_path"].index("data") :] == "data/cifar10"
    assert told["model_name"] == "preactresnet18"
    network = PreActResNet18(4)
    # It gives the tensors the names of its own network, in their order.
    assert [value.shape for value in told["model"].values()] == [
        value.shape for value in network.state_dict().values()
    ]
