"""What a channel can be scored by beside accuracy, and batch norms on the images of a channel."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ranking.samples import NUDGE, RUN, data, net
from unbackdoor.core.modules import batch_statistics
from unbackdoor.core.run import Run
from unbackdoor.network.layers import find_layers
from unbackdoor.ranking.ranking import Ranker, _Outcome
from unbackdoor.ranking.reverse import Nudge, at_layer


def outcome(margin, rival, push=None, calm=None) -> _Outcome:
    margin = torch.tensor(margin, dtype=torch.float32)
    push = torch.ones_like(margin) if push is None else torch.tensor(push)
    calm = torch.zeros(margin.shape[1]) if calm is None else torch.tensor(calm)
    return _Outcome(margin, margin, torch.tensor(rival, dtype=torch.float32), push, calm)


def test_one_class_counts_the_images_that_one_wrong_class_draws():
    """Both channels lose three of four images: the first to one class, the second to three."""
    found = outcome([[1, -1, -1, -1], [-1, -1, -1, 1]], [[7, 7, 7, 7], [1, 2, 3, 3]])
    assert found.ranking("accuracy").score.tolist() == [0.25, 0.25]
    assert found.ranking("one_class").score.tolist() == [0.25, 0.75]


def test_margin_is_the_rise_for_each_unit_that_the_map_was_moved():
    """The same fall of 2 from 3; the second map moved four times as far, the third never."""
    push = [[0.5, 0.5], [2.0, 2.0], [0.0, 0.0]]
    found = outcome([[1, 1]] * 3, [[0, 0]] * 3, push, [3.0, 3.0])
    assert found.ranking("margin").score.tolist() == [-4.0, -1.0, 0.0]


class Linear1x1(nn.Module):
    """Channel 0 is twice the value, channel 1 minus three times; the logits are the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1, bias=False)
        self.conv.weight.data.copy_(torch.tensor([2.0, -3.0]).view(2, 1, 1, 1))

    def forward(self, x):
        return self.conv(x).flatten(1) + 0.0


def test_the_push_and_the_fall_of_the_margin_are_those_of_the_images():
    """From 0.5 to 0.7: the maps move 0.4 and 0.6, the margin of class 1 falls from -2.5 by 1."""
    x, signs = torch.full((3, 1, 1, 1), 0.5), torch.ones(3, 1, 1, 1)
    model = nn.Sequential(Linear1x1(), nn.Linear(2, 2, bias=False))
    model[1].weight.data.copy_(torch.eye(2))
    (layer,) = find_layers(model, x)
    y = torch.ones(3, dtype=torch.int64)
    ranker = Ranker(model, x, y, signs, Nudge(0.2, 0.1, 1), RUN, "margin")
    found = ranker.rank(layer, None, lambda _: None)
    torch.testing.assert_close(found.score, torch.tensor([-1 / 0.4, -1 / 0.6]))


def test_batch_statistics_are_those_of_each_batch_and_none_drift():
    model = net().train()
    x, _, _ = data(6)
    own = batch_statistics(model).eval()
    before = copy.deepcopy(model.state_dict())
    torch.testing.assert_close(own(x), copy.deepcopy(model)(x))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert own[1].running_mean is None and model[1].running_mean is not None


def test_images_that_go_together_meet_no_images_of_another_channel():
    """Norms on the images of one channel: what the plain loop in train mode gives."""
    model = batch_statistics(net()).eval()
    x, y, signs = data(10)
    for layer in find_layers(model, x):
        ranker = Ranker(model, x, y, signs, NUDGE, RUN, together=True)
        found = ranker.rank(layer, None, lambda _: None)
        for channel in range(layer.channels):
            calm = at_layer(model, layer, x)[1][:, channel].detach()
            moved = NUDGE.within(x + NUDGE.alpha * signs, x)
            for _ in range(NUDGE.steps):
                leaf = moved.clone().requires_grad_()
                ((at_layer(model, layer, leaf)[1][:, channel] - calm) ** 2).sum().backward()
                moved = NUDGE.within(moved + NUDGE.stride * leaf.grad.sign(), x)
            loss = F.cross_entropy(model(moved), y)
            torch.testing.assert_close(found.loss[channel], loss.detach())


@pytest.mark.parametrize("kind", ["accuracy", "one_class"])
def test_where_every_score_counts_every_pair_near_the_boundary_is_done_again(kind):
    model = net()
    x, _, signs = data(24)
    y = model(x).argmax(1)
    (layer, *_) = find_layers(model, x)
    exact = Ranker(model, x, y, signs, NUDGE, RUN, kind).rank(layer, None, lambda _: None)
    rough = Ranker(model, x, y, signs, NUDGE, Run(precision="bf16"), kind)
    wrong = rough._unseen(layer)
    wrong.margin[:], wrong.loss[:], wrong.rival[:] = -1e-3, 0.0, 0.0  # all of them, by little
    rough._settle(wrong, layer, None)
    torch.testing.assert_close(wrong.ranking(kind).score, exact.score)
