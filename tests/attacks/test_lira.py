"""LIRA: the bound of the change."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unbackdoor.attacks.base.controlled import fresh, weights
from unbackdoor.attacks.lira import LIRA
from unbackdoor.core.run import Run

from .conftest import BRIEF, Digits


def test_the_change_is_within_eps_and_reaches_it() -> None:
    attack = LIRA(eps=0.03, width=4)
    generator = fresh(lambda: attack._generator(3), Run(), "generator")
    # The last layer a hundred times as steep: nearly everywhere the bound is what holds.
    for parameter in generator[-1].parameters():
        parameter.data.mul_(100)
    x = torch.rand(4, 3, 16, 16, generator=Run().rng("x"))
    stamped = attack.trigger(weights(generator, "generator."))(x)
    change = (stamped - x).abs()
    assert change.max() <= 0.03 + 1e-6
    assert change.mean() > 0.01
    assert 0 <= stamped.min() <= stamped.max() <= 1


class Watched(nn.Module):
    """Keeps what it is shown, and tells no class from another."""

    def forward(self, x: Tensor) -> Tensor:
        self.shown = x.detach()
        self.logits = torch.zeros(len(x), 3, requires_grad=True)
        return self.logits


def test_the_loss_is_that_of_the_clean_batch_and_of_its_stamped_copy() -> None:
    attack, victim = LIRA(rate=0.5, target=2, clean_weight=0.25), Watched()
    x, y = torch.full((4, 3, 8, 8), 0.5), torch.tensor([0, 1, 0, 1])
    loss = attack._loss(victim, lambda x: x + 0.1, x, y)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3))
    assert torch.equal(victim.shown, torch.cat([x, x[:2] + 0.1]))
    goals = victim.logits.grad.argmin(1)
    assert goals.tolist() == [0, 1, 0, 1, 2, 2]
    # Equal logits: each image's share of its loss shows in its gradient.
    shares = -victim.logits.grad.min(1).values * 3 / 2
    assert shares.tolist() == pytest.approx([0.25 / 4] * 4 + [0.75 / 2] * 2)


def test_the_generator_and_a_classifier_learn_together(
    digits: Digits, net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, original = [], LIRA._loss

    def watched(*told: Any) -> Tensor:
        losses.append(original(*told))
        return losses[-1]

    monkeypatch.setattr(LIRA, "_loss", watched)
    attack = LIRA(trigger_epochs=3, width=4, **BRIEF)
    attack.learn(net, digits[0][slice(0, 160)], Run())
    steps = torch.stack(losses).view(3, 5)
    assert steps[2].mean() < 0.8 * steps[0].mean()
