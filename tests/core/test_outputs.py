from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from unbackdoor.core.errors import ModelError, UnbackdoorWarning
from unbackdoor.core.images import Images
from unbackdoor.core.measure import check
from unbackdoor.core.outputs import logits_of, probabilities

Y = torch.tensor([[1.0, -2.0, 3.0]])


def test_logits_are_taken_where_they_are_plain():
    assert logits_of(Y, 3) is Y
    assert logits_of({"logits": Y, "loss": None}, 3) is Y
    assert logits_of(SimpleNamespace(logits=Y), 3) is Y
    with pytest.warns(UnbackdoorWarning, match="number 2"):
        assert logits_of((torch.zeros(1, 8, 4, 4), Y), 3) is Y


@pytest.mark.parametrize(
    ("outputs", "told"),
    [
        ((Y, Y), r"a tuple of \[1, 3\], \[1, 3\], not logits \[n, 3\]"),
        ([torch.zeros(1, 4)], r"a list of \[1, 4\]"),
        ({"y": 3}, "a dict of int"),
        (None, "a NoneType"),
        ((), "a tuple of nothing"),
    ],
)
def test_outputs_that_are_no_logits_are_named(outputs, told):
    with pytest.raises(ModelError, match=told):
        logits_of(outputs, 3, "mynet:Net")


def test_probabilities_are_noticed_and_said():
    assert probabilities(Y.softmax(1)) and not probabilities(Y)
    assert not probabilities(torch.ones(2, 1)) and not probabilities(torch.ones(2, 2))
    assert not probabilities(torch.eye(3))  # logits that are one-hot
    images = Images(torch.zeros(2, 3, 2, 2, dtype=torch.uint8), torch.tensor([0, 1]), tuple("abc"))
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Softmax(1))
    with pytest.warns(UnbackdoorWarning, match="probabilities"):
        check(net, images)
    check(net[:2], images)
