import pytest
import torch

from unbackdoor.training.unet import UNet


@pytest.mark.parametrize("side", [16, 13])
def test_images_keep_their_shape_and_range(side):
    net = UNet(2, width=2, depth=2)
    with torch.no_grad():
        net.last.bias.fill_(5.0)
    made = net(torch.rand(3, 2, side, side))
    assert made.shape == (3, 2, side, side)
    assert made.min() >= 0 and made.max() == 1
    made.sum().backward()
    assert net.first[0].weight.grad.abs().sum() > 0
