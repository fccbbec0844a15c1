"""Whether each defense needs what it says, and nothing else."""

from __future__ import annotations

import warnings
from functools import cache

import pytest
import torch
from tests.test_contracts import DEFENSES, images, same, short, victim
from torch import nn

from unbackdoor.core import method
from unbackdoor.core.errors import ModelError
from unbackdoor.core.images import Images
from unbackdoor.core.run import Run
from unbackdoor.defenses.base.defense import Defense, Repair
from unbackdoor.defenses.base.needs import NEEDS

EAGER: dict[str, dict[str, object]] = {"neural_cleanse": {"anomaly": 1e-9}}
"""What makes a method do something with this model, which has no backdoor."""


def needs(name: str) -> frozenset[str]:
    found = method.find("defense", name)
    assert issubclass(found, Defense)
    return found.needs


def repaired(name: str, model: nn.Module, given: Images) -> Repair:
    defense = short("defense", name).model_copy(update=EAGER.get(name, {}))
    assert isinstance(defense, Defense)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return defense.repair(model, given, Run(0, precision="fp32"))


@cache
def told(name: str) -> tuple[list[dict[str, torch.Tensor]], int]:
    """(the weights of the repaired model and the scores, how often gradients were asked for)."""
    asked = []

    def counted(function):
        def call(*args, **kwargs):
            asked.append(1)
            return function(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for where in ("backward", "grad"):
            patch.setattr(torch.autograd, where, counted(getattr(torch.autograd, where)))
        made = outcome(repaired(name, victim(), images(1)))
    return made, len(asked)


def outcome(repair: Repair) -> list[dict[str, torch.Tensor]]:
    return [repair.model.state_dict(), dict(repair.scores)]


@pytest.mark.parametrize("name", DEFENSES)
def test_what_a_defense_needs_is_said_in_known_words(name):
    assert needs(name) <= set(NEEDS)
    assert "needs" in vars(method.find("defense", name))


@pytest.mark.parametrize("name", DEFENSES)
def test_other_labels_make_another_repair_where_labels_are_needed(name):
    given = images(1)
    wrong = Images(given.pixels, (given.labels + 1) % 3, given.classes)
    found = outcome(repaired(name, victim(), wrong))
    alike = all(same(one, other) for one, other in zip(found, told(name)[0], strict=True))
    assert alike == ("labels" not in needs(name))


@pytest.mark.parametrize("name", DEFENSES)
def test_gradients_are_taken_where_training_is_needed(name):
    assert (told(name)[1] > 1) == ("training" in needs(name))


class Block(nn.Module):
    """An encoder block that mixes no tokens: two norms and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.up, self.down = nn.LayerNorm(4), nn.Linear(4, 6), nn.Linear(6, 4)
        self.behind = nn.LayerNorm(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.behind(x + self.down(self.up(self.before(x)).relu()))
        return found


class Bare(nn.Module):
    """Two convolutions without a norm; with `tokens`, a transformer's patches instead."""

    def __init__(self, *, tokens: bool = False, norm: type[nn.Module] | None = None) -> None:
        super().__init__()
        self.tokens = tokens
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first = nn.Conv2d(3, 4, 4, 4)
            self.second = Block() if tokens else nn.Conv2d(4, 4, 1)
            self.norm = norm(4) if norm else nn.Identity()
            self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.tokens:
            y = self.second(self.first(x).flatten(2).transpose(1, 2)).relu()
            return self.head(self.norm(y).mean(1))
        return self.head(self.norm(self.second(self.first(x)).relu()).mean((2, 3)))


def grouped(channels: int) -> nn.Module:
    return nn.GroupNorm(2, channels)


@pytest.mark.parametrize("name", DEFENSES)
@pytest.mark.parametrize(
    ("lacking", "model"),
    [
        ({"norms", "batch_norms"}, Bare()),
        ({"batch_norms"}, Bare(norm=grouped)),
        ({"maps", "batch_norms"}, Bare(tokens=True, norm=nn.LayerNorm)),
    ],
    ids=["no norm", "group norm", "tokens"],
)
def test_a_model_without_what_is_needed_is_refused_and_no_other(name, lacking, model):
    defense = short("defense", name)
    if needs(name) & lacking:
        with pytest.raises(ModelError):
            defense.check(model.eval(), images(1))
    else:
        defense.check(model.eval(), images(1))


@pytest.mark.parametrize("name", DEFENSES)
def test_the_work_that_is_foretold_is_that_order_of_passes(name):
    defense = short("defense", name)
    foretold = defense.work(36, 3)
    if foretold is None:
        pytest.skip("it does not foretell its work")
    passes = repaired(name, victim(), images(1)).notes["passes"]
    assert foretold / 36 / 4 <= max(passes, 0.5) and passes / 4 - 0.5 <= foretold / 36
