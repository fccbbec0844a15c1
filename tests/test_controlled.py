"""Training a victim and the parts of its trigger: two optimizers that step as one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from unbackdoor.controlled import Together, adam


def together(victim: nn.Parameter, part: nn.Parameter) -> Together:
    return Together(torch.optim.SGD([victim], lr=0.1, momentum=0.9), adam([part], 0.01))


def stepped(both: Together, victim: nn.Parameter, part: nn.Parameter) -> tuple[float, float]:
    def closure() -> torch.Tensor:
        both.zero_grad()
        loss = 2 * victim + 3 * part**2
        loss.backward()
        return loss.detach()

    before = 2 * victim.item() + 3 * part.item() ** 2
    assert both.step(closure).item() == pytest.approx(before)
    return victim.item(), part.item()


def test_each_takes_a_step_of_its_own_at_the_rate_that_is_set_from_outside() -> None:
    victim, part = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(1.0))
    both = together(victim, part)
    both.param_groups[1]["lr"] = 0.02
    # SGD goes lr times the slope of 2; Adam's first step is its rate, whatever the slope.
    assert stepped(both, victim, part) == pytest.approx((0.8, 0.98), abs=1e-6)


def test_it_goes_on_from_its_state_to_the_same_bits() -> None:
    victim, part = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(1.0))
    both = together(victim, part)
    stepped(both, victim, part)
    state = copy.deepcopy(both.state_dict())
    again = [nn.Parameter(value.detach().clone()) for value in (victim, part)]
    resumed = together(*again)
    resumed.load_state_dict(state)
    for optimizer in (both, resumed):
        optimizer.param_groups[0]["lr"] = 0.05
        optimizer.param_groups[1]["lr"] = 0.005
    assert stepped(both, victim, part) == stepped(resumed, *again)
    fresh = [nn.Parameter(torch.tensor(value)) for value in (0.8, 0.99)]
    assert stepped(together(*fresh), *fresh) != (victim.item(), part.item())
