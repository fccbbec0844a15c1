"""Borrowed modules come back as they were, errors or not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unbackdoor.core.modules import device_of, exact, frozen, in_mode


def net() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)))
    model.train()
    model[1][1].eval()
    model[0].weight.requires_grad_(False)
    return model


@pytest.mark.parametrize("train", [False, True])
def test_in_mode_sets_all_and_restores_each(train):
    model = net()
    before = [module.training for module in model.modules()]
    with pytest.raises(KeyError), in_mode(model, train=train):
        assert all(module.training == train for module in model.modules())
        raise KeyError
    assert (
        [module.training for module in model.modules()] == before == [True, True, True, True, False]
    )


def test_frozen_freezes_all_and_restores_each():
    model = net()
    with pytest.raises(KeyError), frozen(model):
        assert not any(parameter.requires_grad for parameter in model.parameters())
        raise KeyError
    assert [parameter.requires_grad for parameter in model.parameters()] == [
        False,
        True,
        True,
        True,
    ]


def test_device_of():
    assert device_of(nn.Flatten()) == torch.device("cpu")
    assert device_of(nn.Linear(1, 1, device="meta")) == torch.device("meta")
    only_buffers = nn.BatchNorm1d(1, affine=False, device="meta")
    assert device_of(only_buffers) == torch.device("meta")


def test_exact_is_on_the_cpu_where_a_device_has_no_float64():
    class Apple:
        device = torch.device("mps")

        def cpu(self):
            return torch.ones(2)

        def double(self):
            raise TypeError("no float64")

    assert exact(Apple()).dtype == exact(torch.ones(2)).dtype == torch.float64
