"""Fine-tuning: learns, keeps the input model, says when it did nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from unbackdoor.core.errors import UnbackdoorWarning
from unbackdoor.core.images import Images
from unbackdoor.core.measure import accuracy
from unbackdoor.core.run import Run
from unbackdoor.defenses.fine_tuning import FineTuning

RUN = Run(precision="fp32")


def bright_or_dark() -> Images:
    pixels = torch.zeros(32, 1, 8, 8, dtype=torch.uint8)
    pixels[::2] = 255
    return Images(pixels, torch.arange(32) % 2, ("bright", "dark"))


def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))


def test_it_learns_and_leaves_the_input_alone():
    model, clean = net(), bright_or_dark()
    with torch.no_grad():  # bright goes to 1: every image is wrong
        model[1].weight.copy_(torch.tensor([[-1.0], [1.0]]).expand(2, 64) / 64)
        model[1].bias.copy_(torch.tensor([0.5, -0.5]))
    state = copy.deepcopy(model.state_dict())
    assert accuracy(model, clean, RUN).hits == 0
    repair = FineTuning(epochs=5, lr=0.05, batch=8).repair(model, clean, RUN)
    assert accuracy(repair.model, clean, RUN).hits == 32
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert repair.silenced == {} and repair.scores == {}


def test_a_repair_that_changes_nothing_warns():
    with pytest.warns(UnbackdoorWarning, match="fine_tuning changed no weight"):
        FineTuning(epochs=0).repair(net(), bright_or_dark(), RUN)
