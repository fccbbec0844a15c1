import pytest
import torch
from torch import nn
from torch.nn import functional as F

from defenses.samples import task
from unbackdoor.defenses.ridge import Ridge, ridge, sampled_patches
from unbackdoor.errors import ModelError
from unbackdoor.images import Images
from unbackdoor.run import Run


def test_used_directions_stay_and_idle_ones_fade():
    # Second moments diag(3, 1): their mean is 2, so a shrinkage of 0.5 adds 1 to each.
    moments = torch.diag(torch.tensor([3.0, 1.0]))
    weights = torch.tensor([[4.0, 4.0]])
    solved = ridge(moments, weights @ moments, 0.5)
    torch.testing.assert_close(solved, torch.tensor([[4 * 3 / 4, 4 * 1 / 2]]))


def test_a_layer_makes_up_for_what_the_one_before_lost():
    # The first layer halves all that it puts out, so the second doubles to give what it gave.
    q = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    solved = ridge(q.T @ q, torch.tensor([[3.0, 5.0]]) @ (2 * q).T @ q, 1e-9)
    torch.testing.assert_close(solved, torch.tensor([[6.0, 10.0]]))


def test_a_direction_that_clean_images_never_use_is_lost():
    # Clean images are black in the second channel; the net would shout at anything there.
    pixels = torch.randint(0, 256, (60, 2, 4, 4), dtype=torch.uint8)
    pixels[:, 1] = 0
    clean = Images(pixels, torch.arange(60) % 2, ("a", "b"))
    net = nn.Sequential(nn.Conv2d(2, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 100.0], [-1.0, -100.0]]).view(2, 2, 1, 1))
    repaired = Ridge(shrink=1e-3, patches=8).repair(net, clean, Run(precision="fp32")).model
    assert repaired[0].weight[:, 1].abs().max() < 1e-3
    torch.testing.assert_close(repaired[0].weight[:, 0], net[0].weight[:, 0], atol=0, rtol=2e-3)


@pytest.mark.parametrize(
    "fields",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (3, 1), "stride": 2, "padding": (0, 2)},
        {"kernel_size": 2, "dilation": 2},
        {"kernel_size": 3, "padding": "same", "padding_mode": "reflect"},
    ],
)
def test_patches_are_what_the_kernels_are_multiplied_with(fields):
    conv = nn.Conv2d(3, 5, bias=False, **fields)
    inputs = torch.randn(2, 3, 7, 6)
    found = sampled_patches(conv, inputs, 600, torch.Generator().manual_seed(0))
    made = found.view(2, 600, -1) @ conv.weight.flatten(1).T
    there = conv(inputs).flatten(2).movedim(1, 2)
    for image in range(2):
        apart = torch.cdist(made[image], there[image], compute_mode="donot_use_mm_for_euclid_dist")
        assert apart.min(1).values.max() < 1e-4
        assert apart.min(0).values.max() < 1e-4


def test_the_shrinkage_chosen_is_the_largest_that_accuracy_allows():
    clean, net = task()
    free = Ridge(allowed=1.0, max_acc_drop=1.0).repair(net, clean, Run(precision="fp32"))
    assert free.notes["shrink"] == 0.4
    careful = Ridge(allowed=0.0).repair(net, clean, Run(precision="fp32"))
    assert careful.notes["shrink"] <= 0.4
    moved = F.mse_loss(free.model[0].weight, net[0].weight)
    assert moved > 0


def test_a_model_without_plain_convolutions_is_refused_by_name():
    net = nn.Sequential(nn.Conv2d(4, 4, 1, groups=4), nn.Flatten(), nn.Linear(16, 2))
    images = Images(torch.zeros(60, 4, 2, 2, dtype=torch.uint8), torch.arange(60) % 2, ("a", "b"))
    with pytest.raises(ModelError, match="no plain convolution"):
        Ridge().repair(net, images, Run())
