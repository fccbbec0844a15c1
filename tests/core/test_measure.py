"""Counts, their intervals, and who is counted."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from unbackdoor.core.errors import ModelError
from unbackdoor.core.images import Images, Triggered
from unbackdoor.core.measure import (
    Rate,
    Score,
    accuracy,
    attack_rates,
    check,
    der,
    logits,
    score,
    seconds_of_step,
)
from unbackdoor.core.run import Run

RUN = Run(precision="bf16")  # measuring must not care


class ByBrightness(nn.Module):
    """An image of value v goes to class v."""

    def forward(self, x: Tensor) -> Tensor:
        values = x.mean((1, 2, 3)) * 255
        return -(values.unsqueeze(1) - torch.arange(3)).abs()


def images(values: list[int], labels: list[int]) -> Images:
    pixels = torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    return Images(pixels.contiguous(), torch.tensor(labels, dtype=torch.int64), ("a", "b", "c"))


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [
        # Newcombe 1998, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_wilson_interval_is_the_published_one(hits, total, low, high):
    assert Rate(hits, total).interval() == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_widens_with_confidence_and_knows_nothing_of_nothing():
    narrow, wide = Rate(8, 10).interval(0.5), Rate(8, 10).interval(0.99)
    assert wide[0] < narrow[0] < 0.8 < narrow[1] < wide[1]
    assert Rate(0, 0).interval() == (0.0, 1.0)
    assert math.isnan(Rate(0, 0).value)
    assert Rate(1, 4).as_json() == {"hits": 1, "total": 4, "value": 0.25}


def test_accuracy_counts():
    assert accuracy(ByBrightness(), images([0, 1, 2, 2], [0, 1, 2, 0]), RUN) == Rate(3, 4)


def test_images_of_the_goal_class_do_not_count():
    """Goal 0. Predictions 0 0 1 2 0; the first and last are of class 0 and prove nothing."""
    stamped = Triggered(images([0, 0, 1, 2, 0], [0, 1, 1, 1, 0]), torch.zeros(5, dtype=torch.int64))
    asr, ra = attack_rates(ByBrightness(), stamped, RUN)
    assert asr == Rate(1, 3)  # one of the three goes to 0
    assert ra == Rate(1, 3)  # one to its true class


def test_goals_may_differ_by_image():
    stamped = Triggered(images([1, 2, 2], [0, 1, 2]), torch.tensor([1, 2, 0]))
    assert attack_rates(ByBrightness(), stamped, RUN) == (Rate(2, 3), Rate(1, 3))


def test_score_leaves_out_what_was_not_given():
    clean = images([0, 1], [0, 0])
    found = score(ByBrightness(), RUN, clean)
    assert found == Score(acc=Rate(1, 2))
    assert found.as_json() == {
        "acc": {"hits": 1, "total": 2, "value": 0.5},
        "asr": None,
        "ra": None,
    }
    stamped = Triggered(images([0], [1]), torch.tensor([0]))
    assert score(ByBrightness(), RUN, triggered=stamped) == Score(None, Rate(1, 1), Rate(0, 1))


def scored(acc: int, asr: int) -> Score:
    return Score(Rate(acc, 100), Rate(asr, 100), Rate(0, 100))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((90, 100), (90, 0), 1.0),
        ((90, 100), (80, 100), 0.45),
        ((90, 100), (85, 40), 0.775),
        ((90, 50), (95, 60), 0.5),  # a gain in ACC and a rise in ASR count as no drop
    ],
)
def test_der_by_hand(before, after, expected):
    assert der(scored(*before), scored(*after)) == pytest.approx(expected)


def test_der_needs_both_rates():
    assert der(Score(acc=Rate(1, 1)), scored(1, 1)) is None


def test_logits_come_in_eval_mode_in_fp32_in_order_whatever_the_batch():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)
            self.modes: list[bool] = []

        def forward(self, x: Tensor) -> Tensor:
            self.modes.append(self.training)
            return self.linear(x.flatten(1))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Net().train()
    given = images(list(range(7)), [0] * 7)
    found = logits(model, given, RUN, batch=3)
    assert model.training and model.modes[1:] == [False] * 3  # the first is to see how much fits
    assert found.dtype == torch.float32 and found.shape == (7, 3) and not found.requires_grad
    expected = model.linear(given.pixels.flatten(1) / 255)
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-6)


def test_of_no_images_nothing_is_counted():
    none = images([1], [1])[slice(0, 0)]
    assert logits(ByBrightness(), none, RUN).shape == (0, 3)
    assert accuracy(ByBrightness(), none, RUN) == Rate(0, 0)


class Wrapped(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.inner, self.kind = ByBrightness(), kind

    def forward(self, x):
        said = self.inner(x)
        return {"tuple": (said, x), "dict": {"logits": said}}[self.kind]


@pytest.mark.parametrize("kind", ["tuple", "dict"])
def test_a_model_whose_outputs_are_no_tensor_is_one_line(kind):
    with pytest.raises(ModelError, match=f"the model gives a {kind}, not logits"):
        check(Wrapped(kind), images([0, 1], [0, 1]))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_that_are_not_float32_are_one_line(kind):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).to(kind)
    name = str(kind).removeprefix("torch.")
    with pytest.raises(ModelError, match=rf"^weights are {name}; give model\.float\(\)$"):
        check(model, images([0, 1], [0, 1]))
    check(model.float(), images([0, 1], [0, 1]))


def test_the_time_of_a_step_of_a_forward_without_gradients_is_one_line():
    with pytest.raises(ModelError, match=r"torch\.no_grad"):
        seconds_of_step(ByBrightness(), torch.rand(2, 1, 2, 2), RUN)
