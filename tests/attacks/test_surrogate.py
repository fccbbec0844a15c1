"""The attacker's own clean model: it learns, and starts from other weights than the victim."""

from __future__ import annotations

import torch
from torch import nn

from unbackdoor.attacks.base.surrogate import fresh_copy, surrogate
from unbackdoor.core.images import Images
from unbackdoor.core.measure import accuracy
from unbackdoor.core.run import Run

from .conftest import BRIEF

Digits = tuple[Images, Images]


class Odd(nn.Module):
    """A parameter of its own, of which nothing says how it is drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 40))
        self.scale = nn.Parameter(torch.ones(3))
        self.norm = nn.BatchNorm1d(3)


def test_a_fresh_copy_has_weights_of_its_own_of_the_same_kind(net: nn.Module) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    copied = fresh_copy(net, Run(), "a")
    for name in ("0.weight", "4.weight", "9.weight", "9.bias"):
        mine, theirs = copied.state_dict()[name], before[name]
        assert not torch.isclose(mine, theirs).any(), name
        assert 0.8 < mine.std() / theirs.std() < 1.25, name
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    again, other = fresh_copy(net, Run(), "a"), fresh_copy(net, Run(seed=1), "a")
    assert torch.equal(again[0].weight, copied[0].weight)
    assert not torch.equal(other[0].weight, copied[0].weight)


def test_a_fresh_copy_of_a_trained_model_has_forgotten_it(twin: nn.Module, digits: Digits) -> None:
    copied = fresh_copy(twin, Run(), "a")
    assert accuracy(copied, digits[1], Run()).value < 0.3 < accuracy(twin, digits[1], Run()).value
    assert torch.equal(copied[1].running_mean, torch.zeros(16))


def test_parameters_without_a_way_to_be_drawn_are_put_in_another_order() -> None:
    odd = Odd()
    odd.norm.weight.data.fill_(2)
    copied = fresh_copy(odd, Run(), "a")
    assert not torch.equal(copied.token, odd.token)
    assert torch.equal(copied.token.flatten().sort().values, odd.token.flatten().sort().values)
    assert torch.equal(copied.scale, odd.scale)
    assert (copied.norm.weight == 1).all()


def test_the_surrogate_learns_and_with_no_epochs_is_the_model_as_given(
    net: nn.Module, twin: nn.Module, digits: Digits
) -> None:
    train, test = digits
    clean = surrogate(net, train, Run(), BRIEF, 6)
    assert accuracy(clean, test, Run()).value > 0.8
    given = surrogate(twin, train, Run(), BRIEF, 0)
    assert given is not twin
    assert torch.equal(given[0].weight, twin[0].weight)


def test_the_surrogate_starts_elsewhere_than_the_victim(net: nn.Module, digits: Digits) -> None:
    still = {**BRIEF, "lr": 1e-9}
    clean = surrogate(net, digits[0][slice(64)], Run(), still, 1)
    assert (clean[0].weight - net[0].weight).abs().mean() > 0.01
    assert (clean[9].weight - net[9].weight).abs().mean() > 0.01
