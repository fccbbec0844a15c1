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
    "name",
    [
        *("load_model", "load_images", "load_triggered", "poison", "attack", "evaluate"),
        pytest.param("repair", marks=pytest.mark.filterwarnings("ignore:.* of 10 classes have")),
    ],
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
        unbackdoor.repair(constant(0), four([0, 1]), "fmpp")
    with pytest.raises(UnknownNameError, match="'epochs'"):
        unbackdoor.repair(constant(0), four([0, 1]), epoch=1)


def test_poisoned_data_come_without_a_victim() -> None:
    train, test = (
        unbackdoor.load_images(f"digits:{part}", channels=1) for part in ("train", "test")
    )
    found = unbackdoor.poison(train, "badnets", test=test, rate=0.2, size=4, target=3)
    rows = found.poisoned.rows()
    assert len(rows) == round(0.2 * len(train))
    assert (found.poisoned.images.labels[rows] == 3).all()
    assert (found.triggered.images.labels != 3).all()
    assert (found.triggered.images.pixels[..., -4:, -4:] == 255).all()
    assert unbackdoor.poison(train, "badnets").triggered is None
    with pytest.raises(unbackdoor.UnbackdoorError, match="learns its trigger on a network"):
        unbackdoor.poison(train, "lf")
    with pytest.raises(unbackdoor.UnbackdoorError, match="no fixed poisoned set"):
        unbackdoor.poison(train, "blind")


def test_an_attack_from_python_gives_a_victim_that_obeys_its_trigger() -> None:
    train, test = (
        unbackdoor.load_images(f"digits:{part}", channels=1) for part in ("train", "test")
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(256, 64), nn.ReLU())
        net.append(nn.Linear(64, 10))
    before = net[2].weight.clone()
    settings = {"epochs": 25, "lr": 0.1, "batch": 32, "flip": False, "size": 8}
    victim = unbackdoor.attack(net, train, "badnets", test=test, **settings)
    assert torch.equal(net[2].weight, before)
    score = unbackdoor.evaluate(victim.model, test, victim.triggered)
    assert score.asr.value > 0.9 and score.acc.value > 0.7
    assert unbackdoor.evaluate(victim.model, None, None).asr is None
    assert victim.taught["relabelled"].value > 0.9 and victim.elsewhere is None
    few = train[slice(0, 100)]
    short = {"size": 8, "epochs": 1, "flip": False}
    with pytest.warns(unbackdoor.UnbackdoorWarning, match="it flatters every defense"):
        own = unbackdoor.attack(net, few, test=test, sources=[3, 5], **short)
        assert unbackdoor.attack(net, few, **short).triggered is None
    assert set(own.triggered.images.labels.tolist()) == {3, 5}
    assert set(own.elsewhere.images.labels.tolist()) == {1, 2, 4, 6, 7, 8, 9}
