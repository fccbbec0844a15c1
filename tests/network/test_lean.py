"""The lean copy: what it computes is what the model computes, for maps, logits and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from unbackdoor.core.run import Run
from unbackdoor.models import preact_resnet18
from unbackdoor.network.layers import find_layers
from unbackdoor.network.lean import Fused, Steady, lean
from unbackdoor.ranking.reverse import Nudge, Reversal, at_layer

RUN = Run(precision="fp32")


def lively(make) -> nn.Module:
    """The network with random weights and norms, so that one left out or put twice shows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (*module.parameters(), module.running_mean):
                    tensor.data.normal_()
                module.running_var.uniform_(0.5, 2)
    return model.eval()


def plain() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True)),
        *(nn.Conv2d(6, 9, 3, groups=3, bias=False), nn.BatchNorm2d(9), nn.ReLU()),
        *(nn.BatchNorm2d(9, affine=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(9, 3)),
    )


class Sums(nn.Module):
    """The first convolution feeds its norm and a sum; the second feeds a sum in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.second, self.other = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.other(self.second(self.norm(x).relu()))
        y += x
        return self.last(y.mean((2, 3)))


class Twice(nn.Module):
    """One norm under two names, called by the second."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 3)
        self.again = self.norm

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.again(self.conv(x)).relu().mean((2, 3)))


NETS = {
    "plain": (plain, 2, 1),
    "sums": (Sums, 1, 1),
    "twice": (Twice, 0, 0),
    "preact_resnet18": (lambda: preact_resnet18.build(3, width=4), 8, 8),
}


@pytest.fixture(params=NETS)
def case(request):
    make, fused, steady = NETS[request.param]
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return lively(make), fused, steady, x


def test_only_norms_behind_a_convolution_that_feeds_nothing_else_are_folded(case):
    model, fused, steady, x = case
    fast = lean(model, x[:2], RUN)
    kinds = [type(module) for module in fast.modules()]
    assert (kinds.count(Fused), kinds.count(Steady)) == (fused, steady)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)


def test_maps_and_gradients_are_those_of_the_model(case):
    model, _, _, x = case
    fast = lean(model, x[:2], RUN)
    for layer in find_layers(model, x):
        found = []
        for net in (fast, model):
            leaf = x.clone().requires_grad_()
            _, maps = at_layer(net, layer, leaf)
            found.append((maps, *torch.autograd.grad(maps.square().sum(), leaf)))
        torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_images_made_are_those_of_the_model_itself(case, steps):
    model, _, _, x = case
    model.requires_grad_(False)
    signs, nudge = torch.ones_like(x), Nudge(0.06, 0.02, steps)
    for layer in find_layers(model, x):
        some = torch.arange(3)
        made = [
            Reversal(model, net, layer, x, signs, nudge, RUN).images(some)
            for net in (lean(model, x[:2], RUN), model)
        ]
        assert ((made[0] - made[1]).abs() > 1e-6).float().mean() < 0.01


def test_the_model_stays_as_it_was():
    model = lively(plain).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lean(model, torch.rand(2, 3, 8, 8), RUN)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(isinstance(module, (Fused, Steady)) for module in model.modules())


def test_a_norm_that_somebody_listens_to_stays():
    model = lively(plain)
    heard: list[Tensor] = []
    model[1].register_forward_hook(lambda _, __, y: heard.append(y))
    fast = lean(model, torch.rand(2, 3, 8, 8), RUN)
    assert type(fast[1]) is nn.BatchNorm2d
