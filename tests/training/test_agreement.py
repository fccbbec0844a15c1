import math

import pytest
import torch

from unbackdoor.training.agreement import agreement, disagreement


def test_agreement_is_of_the_probabilities():
    sure = torch.tensor([[math.log(0.9), math.log(0.1)]])
    half = torch.zeros(1, 2)
    assert agreement(sure, half).item() == pytest.approx(-math.log(0.5), rel=1e-5)
    assert agreement(sure, sure).item() == pytest.approx(-math.log(0.82), rel=1e-5)
    assert disagreement(sure, sure).item() == pytest.approx(-math.log(0.18), rel=1e-4)


def test_it_is_that_of_any_number_of_classes():
    one, other = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0)).double()
    same = (one.softmax(1) * other.softmax(1)).sum(1)
    torch.testing.assert_close(disagreement(one, other), -(1 - same).log().mean())


def test_models_that_are_sure_have_a_gradient_too():
    one = torch.tensor([[60.0, 0.0, 0.0]], requires_grad=True)
    disagreement(one, torch.tensor([[60.0, 0.0, 1.0]])).backward()
    assert torch.isfinite(one.grad).all() and one.grad.abs().max() > 0.1
