import pytest
import torch

from unbackdoor.training.implicit import through_fixed_point


# The point follows the weight: p* = 3 w minimises a/2 (p - 3 w)^2, and the loss is
# 1/2 (p - 5)^2 + 2 w. At w = 1: p* = 3, loss' = -2, so d loss / d w = -2 * 3 + 2 = -4; of the
# series only 1 - (1 - 0.5)^terms is there.
@pytest.mark.parametrize(("terms", "expected"), [(0, 2.0), (1, -1.0), (2, -2.5), (60, -4.0)])
def test_the_closed_form_of_a_quadratic(terms, expected):
    weight = torch.tensor(1.0, requires_grad=True)
    surrogate = through_fixed_point(
        lambda p: 0.5 * (p - 5) ** 2 + 2 * weight,
        lambda p: p - 0.5 * (p - 3 * weight),
        torch.tensor(3.0),
        terms,
    )
    surrogate.backward()
    assert weight.grad.item() == pytest.approx(expected)


def test_a_matrix_of_curvatures():
    hessian = torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    weight = torch.tensor([1.0, -2.0], requires_grad=True)
    point = torch.linalg.solve(hessian, weight.detach())  # minimises 1/2 p H p - w p
    through_fixed_point(
        lambda p: p.square().sum() / 2,
        lambda p: p - 0.3 * (hessian @ p - weight),
        point,
        200,
    ).backward()
    torch.testing.assert_close(weight.grad, torch.linalg.solve(hessian, point))
