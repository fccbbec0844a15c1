"""Ranking: what is suspect, and that shared and lazy work give what plain work gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ranking.samples import NUDGE, RUN, data, net
from unbackdoor.core.run import Run
from unbackdoor.network.layers import Layer, find_layers
from unbackdoor.ranking.ranking import Ranker, Ranking, _hits, _Outcome
from unbackdoor.ranking.reverse import Nudge, at_layer

NAN = float("nan")


@pytest.mark.parametrize(
    ("accuracy", "loss", "count", "expected"),
    [
        ([0.5, 0.2, 0.9], [1, 1, 1], 1, [1]),
        ([0.5, 0.2, 0.9], [1, 1, 1], 2, [0, 1]),
        ([0.5, 0.5, 0.5], [1, 3, 2], 2, [1, 2]),  # ties fall by largest loss
        ([0.5, 0.5, 0.5], [1, 1, 1], 1, [0]),  # whole ties by place
        ([0.5, 0.2, 0.5], [9, 0, 8], 2, [0, 1]),  # a loss never outdoes an accuracy
        ([NAN, 0.9, 0.8], [NAN, 1, 2], 2, [1, 2]),  # who dropped out is no suspect
        ([0.5, 0.2, 0.9], [1, 1, 1], 0, []),
    ],
)
def test_suspects(accuracy, loss, count, expected):
    found = Ranking(torch.tensor(accuracy), torch.tensor(loss, dtype=torch.float32))
    assert found.suspects(count).nonzero().flatten().tolist() == expected


def plainly(
    model: nn.Module, layer: Layer, c: int, x: Tensor, y: Tensor, signs: Tensor
) -> tuple[float, float]:
    """(accuracy, loss) of one channel, as the paper has it."""
    calm = at_layer(model, layer, x)[1][:, c].detach()
    moved = NUDGE.within(x + NUDGE.alpha * signs, x)
    for _ in range(NUDGE.steps):
        leaf = moved.clone().requires_grad_()
        ((at_layer(model, layer, leaf)[1][:, c] - calm) ** 2).sum().backward()
        moved = NUDGE.within(moved + NUDGE.stride * leaf.grad.sign(), x)
    logits = model(moved).detach()
    return float((logits.argmax(1) == y).float().mean()), float(F.cross_entropy(logits, y))


def test_rank_is_the_plain_loop_over_channels_in_blocks_of_any_size():
    model = net()
    x, _, signs = data(20)
    model[7].bias.data -= model(x).mean(0).detach()
    y = model(x).argmax(1)
    y[::5] = (y[::5] + 1) % 3
    ranker = Ranker(model, x, y, signs, NUDGE, RUN)
    for layer in find_layers(model, x):
        expected = torch.tensor(
            [plainly(model, layer, c, x, y, signs) for c in range(layer.channels)]
        )
        assert len(expected[:, 0].unique()) > 1  # channels differ
        for rows in (1, 7, 32, 1000):
            ranker.rows = rows
            told: list[int] = []
            found = ranker.rank(layer, 2, told.append)
            torch.testing.assert_close(found.score, expected[:, 0])
            torch.testing.assert_close(found.loss, expected[:, 1])
            assert sum(told) == layer.channels


class OneOf64(nn.Module):
    """Of 64 channels, each with its own pixel column, `decisive` alone decides."""

    def __init__(self, decisive: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 64, (1, 64), bias=False)
        self.decisive = decisive
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(64).view(64, 1, 1, 64))

    def forward(self, x: Tensor) -> Tensor:
        value = self.conv(x)[:, self.decisive, 0, 0]
        inside = 0.12 - (value - 0.5).abs()
        return torch.stack([10 * inside, torch.zeros_like(inside)], 1)


class NoWaiting(TorchDispatchMode):
    """Refuses what makes the host wait for a device: values read, sizes that hang on values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero"}, name
        if name.startswith(("index", "_index")):
            asked = [i for i in args[1] or () if i is not None] if len(args) > 1 else []
            assert not any(i.dtype == torch.bool for i in asked if isinstance(i, Tensor)), name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("steps", [1, 2])
def test_the_loop_over_channels_waits_for_nothing(steps):
    model = net().requires_grad_(False)
    x, y, signs = data(4)
    ranker = Ranker(model, x, y, signs, Nudge(0.3, 0.2, steps), RUN)
    for layer in find_layers(model, x):
        outcome, told = ranker._unseen(layer), []
        everyone, images = torch.arange(layer.channels), torch.arange(4)
        with NoWaiting():
            ranker._see(outcome, layer, everyone, images, told.append)
        assert sum(told) == layer.channels and not outcome.margin.isnan().any()


def test_the_check_for_waiting_sees_a_wait():
    with NoWaiting(), pytest.raises(AssertionError, match="index"):
        torch.ones(3)[torch.tensor([True, False, True])]
    with NoWaiting(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        torch.ones(1).item()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("decisive", [0, 37, 63])
def test_a_race_finds_whom_the_ranking_finds_and_leaves_nan_for_the_others(decisive, precision):
    """Start and step bring the column 0.2 away for its own channel, 0.1 for others."""
    x = torch.full((16, 1, 1, 64), 0.5)
    signs = torch.where(torch.arange(64) % 2 == 0, 1.0, -1.0).expand_as(x)
    y = torch.zeros(16, dtype=torch.int64)
    model = OneOf64(decisive)
    (layer,) = find_layers(model, x)
    ranker = Ranker(model, x, y, signs, Nudge(0.2, 0.1, 1), Run(precision=precision))
    told: list[int] = []
    whole, race = ranker.rank(layer, 1, lambda _: None), ranker.race(layer, 1, told.append)
    assert whole.suspects(1).nonzero().flatten().tolist() == [decisive]
    assert torch.equal(race.suspects(1), whole.suspects(1))
    assert not whole.score.isnan().any()
    stayed = ~race.score.isnan()
    # One in fifteen stays, beside the two that told which images are worth the while.
    assert 4 <= stayed.sum() <= 4 + 2 and torch.equal(stayed, ~race.loss.isnan())
    assert torch.equal(race.score[stayed], whole.score[stayed])
    assert sum(told) == 64


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_who_stays_in_a_race_does_not_hang_on_the_scale_of_the_logits(scale):
    """One channel is wrong by little where all others are right by much, and wrong on no more."""
    margin = torch.full((8, 6), 1.0)
    margin[:, 0] = torch.linspace(2, 3, 8)
    margin[3, 1:3] = -0.2
    margin[5, 1] = -3.0
    assert _hits(scale * margin).argsort()[:2].tolist() == [3, 5]


def test_settling_repairs_what_bfloat16_got_wrong_near_the_last_place(monkeypatch):
    """Every margin is off by a little; those of channels that cannot be pruned stay as they are."""
    x = torch.full((16, 1, 1, 64), 0.5)
    signs = torch.ones_like(x)
    y = torch.zeros(16, dtype=torch.int64)
    model = OneOf64(5)
    (layer,) = find_layers(model, x)
    ranker = Ranker(model, x, y, signs, Nudge(0.2, 0.1, 1), Run(precision="bf16"))
    exact = Ranker(model, x, y, signs, Nudge(0.2, 0.1, 1), RUN).rank(layer, 1, lambda _: None)
    truth = torch.full((64, 16), 0.2)
    truth[5] = -0.8
    # Wrong by up to 0.3, in turn to both sides: channels 8 to 15 lose all of their images.
    error = torch.tensor([-0.1, 0.1]).repeat(8).expand(64, 16).clone()
    error[8:16] = -0.3
    outcome = _Outcome(truth + error, *torch.zeros(3, 64, 16), torch.zeros(16))
    assert outcome.ranking().score[8:16].eq(0).all()
    redone: list[int] = []
    redo = Ranker._redo
    monkeypatch.setattr(
        Ranker, "_redo", lambda self, *args: (redone.append(len(args[2])), redo(self, *args))[1]
    )
    ranker._settle(outcome, layer, 1)
    settled = outcome.ranking()
    assert torch.equal(settled.score, exact.score)
    assert settled.suspects(1).nonzero().flatten().tolist() == [5]
    assert sum(redone) < 64 * 16 / 2  # not all over again


@pytest.mark.parametrize("images", [1, 2, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_few_images_are_enough_for_a_race_and_a_pass_is_never_empty(images, precision):
    """A heat's share of two images is none, and networks of transformers take no empty batch."""
    model = net()
    sizes = []
    model[0].register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    x, y, signs = data(images)
    ranker = Ranker(model, x, y, signs, NUDGE, Run(precision=precision))
    for layer in find_layers(model, x):
        for found in (ranker.race(layer, 1, print), ranker.rank(layer, 1, print)):
            assert int(found.suspects(1).sum()) == 1 and not found.score.isnan().all()
    assert min(sizes) > 0
