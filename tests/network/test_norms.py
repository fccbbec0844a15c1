import pytest
import torch
from torch import nn

from unbackdoor.core.errors import ModelError
from unbackdoor.core.images import Images
from unbackdoor.core.run import Run
from unbackdoor.network.norms import MaskedNorms, below, deepest_cut, find_norms, silence_norms_


class Twisted(nn.Module):
    """Norms registered in another order than they are called in; one is never called."""

    def __init__(self):
        super().__init__()
        self.second = nn.GroupNorm(1, 2)
        self.unused = nn.BatchNorm2d(2)
        self.plain = nn.BatchNorm2d(2, affine=False)
        self.first = nn.BatchNorm2d(2)
        self.head = nn.Linear(2, 2)

    def forward(self, x):
        return self.head(self.second(self.plain(self.first(x))).mean((2, 3)))


def test_norms_are_found_in_call_order():
    assert find_norms(Twisted(), torch.rand(2, 2, 4, 4), "anp") == ("first", "second")


def test_a_network_without_norms_is_refused_by_name():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(ModelError, match=r"anp needs norms.*Sequential has none"):
        find_norms(net, torch.rand(2, 1, 2, 2), "anp")


def test_masks_scale_weights_and_noise_scales_both():
    net = nn.Sequential(nn.BatchNorm2d(2), nn.Flatten())
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([2.0, 3.0]))
        net[0].bias.copy_(torch.tensor([5.0, 7.0]))
    masked = MaskedNorms(net, ["0"]).eval()
    masked.masks[0].data[1] = 0.5
    x = torch.full((1, 2, 1, 1), 1.0)
    torch.testing.assert_close(masked(x), torch.tensor([[7.0, 8.5]]), atol=1e-4, rtol=0)
    noise = [(torch.tensor([0.5, 0.0]), torch.tensor([0.0, -1.0]))]
    torch.testing.assert_close(masked(x, noise), torch.tensor([[8.0, 1.5]]), atol=1e-4, rtol=0)
    assert [name for name, p in masked.named_parameters() if p.requires_grad] == ["masks.0"]
    assert net[0].weight.requires_grad


def test_silenced_channels_put_out_zero_in_both_modes():
    net = nn.BatchNorm2d(2)
    nn.init.constant_(net.bias, 3)
    silence_norms_(net, {"": torch.tensor([True, False])})
    for train in (True, False):
        out = net.train(train)(torch.rand(3, 2, 2, 2))
        assert out[:, 0].abs().max() == 0 and out[:, 1].abs().max() > 0


def test_below_is_strict():
    assert below({"a": torch.tensor([0.0, 0.2, 0.5])}, 0.2)["a"].tolist() == [True, False, False]


@pytest.mark.parametrize(("allowed", "expected"), [(0.0, 0.0), (0.1, 1.0), (0.25, 2.0), (1, 4.0)])
def test_the_deepest_cut_stops_before_the_allowance_is_spent(allowed, expected):
    labels = torch.zeros(10, dtype=torch.int64)
    held = Images(torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).mul(25), labels, ("a", "b"))

    class Rising(nn.Module):
        """Image k goes to class 0 while its pixel is above the threshold."""

        def __init__(self):
            super().__init__()
            self.at = nn.Parameter(torch.tensor(-1.0))

        def forward(self, x):
            margin = x.flatten(1) * 255 / 25 - self.at
            return torch.cat([margin, -margin], 1)

    def prune_(model, cut):
        model.at.data.fill_(cut - 0.5)  # `cut` of the ten images go wrong

    assert deepest_cut(Rising(), prune_, [1.0, 2.0, 3.0, 4.0], allowed, held, Run()) == expected
    assert deepest_cut(Rising(), prune_, [1.0], 1.0, held[:0], Run()) == 0
