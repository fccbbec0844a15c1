import pytest
import torch
from torch import nn

from unbackdoor.core.errors import ModelError
from unbackdoor.network.head import features_into, find_head, hide_, width

X = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))


class Late(nn.Module):
    """Its classifier is registered before what it sees."""

    def __init__(self, after):
        super().__init__()
        self.head, self.body, self.after = nn.Linear(3, 2), nn.Linear(16, 3), after

    def forward(self, x):
        return self.after(self.head(self.body(x.flatten(1)).relu()))


def convolutional(*after):
    return nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Conv2d(5, 2, 1), *after)


@pytest.mark.parametrize("after", [nn.Identity(), nn.LogSoftmax(1)])
def test_the_head_is_found_by_its_output(after):
    net = Late(after)
    assert find_head(net, X, "fst") == ("head", net.head)


@pytest.mark.parametrize(
    "after",
    [(nn.AdaptiveAvgPool2d(1), nn.Flatten()), (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())],
)
def test_a_convolution_may_be_the_head(after):
    net = convolutional(*after)
    name, head = find_head(net, X, "fst")
    assert (name, width(head)) == ("2", 5)


def test_what_is_no_head_is_refused():
    with pytest.raises(ModelError, match=r"fst needs a linear layer .* Late was not found"):
        find_head(Late(nn.Softmax(1)), X, "fst")
    with pytest.raises(ModelError, match="Flatten"):
        find_head(nn.Flatten(), X, "fst")


@pytest.mark.parametrize(
    "net", [Late(nn.Identity()), convolutional(nn.AdaptiveAvgPool2d(1), nn.Flatten())]
)
def test_a_hidden_feature_changes_no_logit(net):
    _, head = find_head(net, X, "fst")
    mask = torch.zeros(width(head), dtype=torch.bool)
    mask[1] = True
    hide_(head, mask)
    with features_into(head) as seen, torch.no_grad():
        net(X)
        other = seen[0].clone()
        other[:, 1] += 7
        assert torch.equal(head(other), head(seen[0]))
        assert head.weight[:, 0].any()
