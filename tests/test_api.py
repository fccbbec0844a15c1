from __future__ import annotations

import doctest

import pytest
import torch
from torch import nn

import unbackdoor
from unbackdoor import api
from unbackdoor.core.errors import ImagesError, ModelError, UnknownNameError
from unbackdoor.core.images import Images, Triggered


@pytest.mark.parametrize(
    "name", ["load_model", "load_images", "load_triggered", "repair", "evaluate"]
)
def test_examples_run(name):
    found = doctest.DocTestFinder().find(getattr(api, name), name, globs=vars(api).copy())
    runner = doctest.DocTestRunner()
    for example in found:
        runner.run(example)
    assert runner.tries and not runner.failures


def constant(answer: int, classes: int = 3) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, classes))
    nn.init.zeros_(model[1].weight)
    model[1].bias.data = 2 * torch.eye(classes)[answer]
    return model


def four(labels: list[int], classes: int = 3) -> Images:
    pixels = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
    return Images(pixels, torch.tensor(labels), tuple("abcdef"[:classes]))


def test_scores_of_a_model_that_says_the_target_always():
    stamped = four([0, 1, 1, 2])
    score = unbackdoor.evaluate(
        constant(0), four([0, 0, 1, 2]), Triggered(stamped, torch.zeros(4, dtype=torch.int64))
    )
    assert (score.acc.hits, score.acc.total) == (2, 4)
    assert (score.asr.hits, score.asr.total) == (3, 3)
    assert (score.ra.hits, score.ra.total) == (0, 3)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ImagesError, match="3 classes"):
        unbackdoor.evaluate(constant(0, 4), four([0, 1]))
    broken = constant(0)
    broken[1].weight.data[0, 0] = float("inf")
    with pytest.raises(ModelError, match=r"1\.weight holds values that are not finite"):
        unbackdoor.evaluate(broken, four([0, 1]))


def test_an_unknown_defense_or_parameter_names_the_nearest():
    with pytest.raises(UnknownNameError, match="'fmp'"):
        unbackdoor.repair(constant(0), four([0, 1]), "fpm")
    with pytest.raises(UnknownNameError, match="'epochs'"):
        unbackdoor.repair(constant(0), four([0, 1]), epoch=1)
