import math

import pytest
import torch
from torch import nn

from unbackdoor.core.images import Images
from unbackdoor.core.run import Run
from unbackdoor.network.layers import Layer, find_layers
from unbackdoor.ranking.capacity import unused_capacity


def images(*channels: torch.Tensor) -> Images:
    pixels = torch.stack(channels, 1)
    return Images(pixels.to(torch.uint8), torch.zeros(len(pixels), dtype=torch.int64), ("a", "b"))


def layer_of(conv: nn.Module) -> tuple[nn.Module, tuple[Layer, ...]]:
    width = getattr(conv, "out_channels", None) or conv.out_features
    return nn.Sequential(conv), (Layer("0", None, width),)


def with_kernels(*kernels: list[float], groups: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(len(kernels[0]) * groups, len(kernels), 1, groups=groups, bias=False)
    conv.weight.data = torch.tensor(kernels)[:, :, None, None]
    return conv


def noise(seed: int, n: int = 400) -> torch.Tensor:
    return torch.randint(0, 256, (n, 4, 4), generator=torch.Generator().manual_seed(seed))


def measured(conv: nn.Conv2d, clean: Images) -> torch.Tensor:
    model, layers = layer_of(conv)
    return unused_capacity(model, layers, clean, Run(precision="fp32"))["0"]


def test_it_is_one_for_a_channel_that_uses_independent_inputs_fully():
    clean = images(noise(0), noise(1))
    assert measured(with_kernels([1.0, 2.0], [3.0, 0.0]), clean).tolist() == pytest.approx(
        [1, 1], abs=0.03
    )


def test_a_channel_whose_inputs_cancel_on_clean_images_has_all_its_capacity_unused():
    same = noise(0)
    found = measured(with_kernels([1.0, -1.0], [1.0, 1.0], [0.0, 0.0]), images(same, same))
    assert found[0] > 1e3  # sqrt(2) std over what rounding leaves of 0
    assert found[1] == pytest.approx(math.sqrt(2) / 2, rel=1e-3)  # it answers twice its input
    assert found[2] == 0


def test_groups_see_only_their_own_inputs():
    loud, still = noise(0), torch.full((400, 4, 4), 7)
    found = measured(with_kernels([2.0], [2.0], groups=2), images(loud, still))
    assert found[0] == pytest.approx(1, rel=1e-3)
    assert found[1] == 0


def test_channels_of_a_linear_layer_are_found_in_its_last_dimension():
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(2, 2, bias=False), nn.Linear(2, 2)
            self.up.weight.data = torch.tensor([[1.0, 1.0], [1.0, -1.0]])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.down(self.up(x.flatten(2).transpose(1, 2)).relu()).mean(1)

    same, model = noise(0), Tokens()
    layers = find_layers(model, torch.rand(2, 2, 4, 4))
    found = unused_capacity(model, layers, images(same, same), Run(precision="fp32"))["up"]
    assert found[0] == pytest.approx(math.sqrt(2) / 2, rel=1e-3)
    assert found[1] > 1e3


def test_the_model_is_left_as_it_was():
    model, layers = layer_of(with_kernels([1.0]))
    model.train()
    unused_capacity(model, layers, images(noise(0)), Run())
    assert model.training and not model[0]._forward_hooks
