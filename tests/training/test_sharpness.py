import pytest
import torch
from torch import nn

from unbackdoor.core.modules import statistics_kept
from unbackdoor.training.sharpness import SharpnessAwareSGD


def quadratic(weight, optimizer):
    """A closure for 1/2 (3 w1^2 + w2^2) and the points it was called at."""
    seen = []

    def closure():
        optimizer.zero_grad(set_to_none=True)
        seen.append(weight.detach().clone())
        with torch.enable_grad():
            loss = 0.5 * (torch.tensor([3.0, 1.0]) * weight.square()).sum()
        loss.backward()
        return loss.detach()

    return closure, seen


# At w = (1, 4) the gradient is (3, 4), of norm 5: the plain step of rho 0.5 is (0.3, 0.4).
# |w| g = (3, 16), of norm sqrt(265): the adaptive step is rho w^2 g / sqrt(265).
@pytest.mark.parametrize(
    ("adaptive", "away"),
    [(False, [0.3, 0.4]), (True, [0.5 * 3 / 265**0.5, 0.5 * 64 / 265**0.5])],
)
def test_the_gradient_is_taken_at_the_worst_point_nearby(adaptive, away):
    weight = nn.Parameter(torch.tensor([1.0, 4.0]))
    optimizer = SharpnessAwareSGD(
        [weight], rho=0.5, adaptive=adaptive, lr=0.1, momentum=0.0, weight_decay=0.0
    )
    closure, seen = quadratic(weight, optimizer)
    loss = optimizer.step(closure)
    assert loss == pytest.approx(0.5 * (3 + 16))
    worst = torch.tensor([1.0, 4.0]) + torch.tensor(away)
    torch.testing.assert_close(seen[1], worst)
    slope = torch.tensor([3.0, 1.0]) * worst
    torch.testing.assert_close(weight.detach(), torch.tensor([1.0, 4.0]) - 0.1 * slope)


def test_a_flat_point_stays():
    weight = nn.Parameter(torch.zeros(2))
    optimizer = SharpnessAwareSGD([weight], rho=2.0, lr=0.1)
    optimizer.step(quadratic(weight, optimizer)[0])
    assert weight.tolist() == [0.0, 0.0]


def test_the_second_pass_leaves_running_statistics_alone():
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    x = torch.arange(12.0).view(4, 3)
    optimizer = SharpnessAwareSGD(
        net.parameters(), rho=2.0, lr=0.0, second_pass=lambda: statistics_kept(net)
    )
    means = []

    def closure():
        optimizer.zero_grad()
        with torch.enable_grad():
            loss = (net(x) * torch.tensor([1.0, 2.0])).square().sum()
        loss.backward()
        means.append(net[1].running_mean.clone())
        return loss

    optimizer.step(closure)
    assert means[0].abs().sum() > 0
    assert torch.equal(means[0], means[1])
    assert net[1].num_batches_tracked == 1
    assert net[1].track_running_stats


@pytest.mark.parametrize("adaptive", [False, True])
def test_it_agrees_with_pytorch_optimizer(adaptive):
    others = pytest.importorskip("pytorch_optimizer")
    torch.manual_seed(0)
    start = torch.randn(5)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    options = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
    mine = SharpnessAwareSGD([ours], rho=0.7, adaptive=adaptive, **options)
    other = others.SAM([theirs], torch.optim.SGD, rho=0.7, adaptive=adaptive, **options)

    def closure_for(weight, optimizer):
        def closure():
            optimizer.zero_grad()
            with torch.enable_grad():
                loss = (weight.cos() * torch.arange(1.0, 6.0)).sum()
            loss.backward()
            return loss

        return closure

    for _ in range(5):
        mine.step(closure_for(ours, mine))
        closure = closure_for(theirs, other)
        closure()
        other.step(closure)
    torch.testing.assert_close(ours, theirs)


def test_the_reach_is_part_of_the_state():
    weight = nn.Parameter(torch.ones(1))
    first, second = (SharpnessAwareSGD([weight], rho=rho, lr=0.1) for rho in (0.5, 2.0))
    first.rho = 0.7
    second.load_state_dict(first.state_dict())
    assert second.rho == 0.7
