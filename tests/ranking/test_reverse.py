"""The images that FMP makes, seen through its scores: nets that are solved by hand.

The nets here have 1x1 images, so every image is one number per colour and each step is arithmetic.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unbackdoor.core.images import Images, to_float
from unbackdoor.core.run import Run
from unbackdoor.defenses.fmp import FMP
from unbackdoor.network.layers import Layer, find_layers
from unbackdoor.network.lean import lean
from unbackdoor.ranking.reverse import Nudge, Reversal

RUN = Run(precision="fp32")


def reversed_images(
    model: nn.Module, layer: Layer, channels: Tensor, x: Tensor, signs: Tensor, nudge: Nudge
) -> Tensor:
    """The images `[k, n, c, h, w]` made for each of the channels."""
    model = model.eval().requires_grad_(False)
    return Reversal(model, lean(model, x[:2], RUN), layer, x, signs, nudge, RUN).images(channels)


class Linear1x1(nn.Module):
    """Channel 0 sees the red value times +2, channel 1 times -3; the logits see both."""

    def __init__(self, head: list[list[float]]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1, bias=False)
        self.head = nn.Linear(2, 2)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([2.0, -3.0]).view(2, 1, 1, 1))
            self.head.weight.copy_(torch.tensor(head))
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).flatten(1))


def moved(x: Tensor, signs: Tensor, nudge: Nudge) -> Tensor:
    model = Linear1x1([[1.0, 0.0], [0.0, 1.0]])
    (layer,) = find_layers(model, x)
    return reversed_images(model, layer, torch.arange(2), x, signs, nudge).detach()


@pytest.mark.parametrize(
    ("value", "sign", "nudge", "expected"),
    [
        # The start is 0.1 away; the distance grows on in the direction of the start.
        (0.5, 1, Nudge(eps=1.0, alpha=0.1, steps=1, step=0.1), 0.7),
        (0.5, -1, Nudge(eps=1.0, alpha=0.1, steps=1, step=0.1), 0.3),
        (0.5, 1, Nudge(eps=1.0, alpha=0.1, steps=3, step=0.1), 0.9),
        # No further than eps.
        (0.5, 1, Nudge(eps=0.15, alpha=0.1, steps=5, step=0.1), 0.65),
        # A step is of eps, and may leave eps behind.
        (0.5, 1, Nudge(eps=0.2, alpha=0.1, steps=1), 0.7),
        (0.5, 1, Nudge(eps=0.2, alpha=0.1, steps=1, projected=False), 0.8),
        (0.5, -1, Nudge(eps=0.05, alpha=0.1, steps=1), 0.45),
        # Clipped to [0, 1].
        (0.95, 1, Nudge(eps=1.0, alpha=0.1, steps=2, step=0.1), 1.0),
        (0.02, -1, Nudge(eps=1.0, alpha=0.1, steps=2, step=0.1), 0.0),
    ],
)
def test_steps_follow_the_sign_of_the_gradient(value, sign, nudge, expected):
    x = torch.full((1, 1, 1, 1), value)
    found = moved(x, torch.full_like(x, sign), nudge)
    assert found.shape == (2, 1, 1, 1, 1)
    torch.testing.assert_close(found.flatten(), torch.tensor([expected, expected]))


def test_each_channel_gets_its_own_images():
    """Channel 0 looks at red alone and channel 1 at green alone: only theirs takes the step."""
    model = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2).view(2, 2, 1, 1))
    x = torch.full((1, 2, 1, 1), 0.5)
    (layer,) = find_layers(model, x)
    signs = torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)
    nudge = Nudge(eps=1.0, alpha=0.1, steps=1, step=0.1)
    found = reversed_images(model, layer, torch.tensor([1, 0]), x, signs, nudge)
    expected = torch.tensor([[0.6, 0.3], [0.7, 0.4]])  # channel 1 first, as asked
    torch.testing.assert_close(found.detach().view(2, 2), expected)


@pytest.mark.parametrize("projected", [True, False])
def test_eps_and_alpha_each_change_the_images(projected):
    x = torch.full((1, 1, 1, 1), 0.5)
    signs = torch.full_like(x, -1.0)
    made = {
        (eps, alpha): round(float(moved(x, signs, Nudge(eps, alpha, 1, None, projected))[0]), 4)
        for eps in (0.03, 0.06, 0.12)
        for alpha in (0.0, 0.02)
    }
    assert len({made[eps, 0.02] for eps in (0.03, 0.06, 0.12)}) == 3
    if not projected:
        assert all(made[eps, 0.0] != made[eps, 0.02] for eps in (0.03, 0.06, 0.12))


def test_alpha_changes_the_images_within_eps():
    """The weights pull the step up, the start of the second channel is down: alpha is left over."""
    model = nn.Sequential(nn.Conv2d(2, 1, 1, bias=False), nn.Flatten(), nn.Linear(1, 2))
    model[0].weight.data.copy_(torch.tensor([1.0, 0.1]).view(1, 2, 1, 1))
    x = torch.full((1, 2, 1, 1), 0.5)
    (layer,) = find_layers(model, x)
    signs = torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)
    ends = [
        reversed_images(model, layer, torch.arange(1), x, signs, Nudge(0.1, alpha, 1)).flatten()
        for alpha in (0.02, 0.04)
    ]
    assert ends[0].tolist() == pytest.approx([0.6, 0.58])
    assert ends[1].tolist() == pytest.approx([0.6, 0.56])


def test_images_stay_in_the_ball_and_in_range():
    rng = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.GELU(), nn.Conv2d(4, 4, 3, padding=1), nn.Flatten()
        )
        model.append(nn.Linear(4 * 36, 3)).eval()
    x = torch.rand(5, 3, 6, 6, generator=rng)
    x[0], x[1] = 0, 1
    signs = torch.randint(0, 2, x.shape, generator=rng).float() * 2 - 1
    before = x.clone()
    for layer in find_layers(model, x):
        found = reversed_images(
            model, layer, torch.arange(4), x, signs, Nudge(eps=0.06, alpha=0.05, steps=3)
        ).detach()
        assert found.shape == (4, 5, 3, 6, 6)
        assert found.min() == 0 and found.max() == 1
        away = (found - x).abs()
        assert away.max() <= 0.06 + 1e-6 and away.max() > 0.0599
        assert not torch.equal(found[0], found[1])
    assert torch.equal(x, before)


def scores(model: nn.Module, values: list[int], labels: list[int], **fields) -> Tensor:
    pixels = torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1)
    clean = Images(pixels, torch.tensor(labels), ("a", "b"))
    defense = FMP(**{"epochs": 0, "p": 2, "ranking_images": len(values), **fields})
    return next(iter(defense.repair(model, clean, RUN).scores.values()))


def test_scores_are_the_accuracy_on_the_moved_images():
    """Logits are (x, 0.5): images above 0.5 are class 0.

    Every image is moved at least one and at most two steps of 0.1 away. 0.9 and 0.1 stay on
    their side of 0.5 in whichever direction; the mislabelled one stays wrong.
    """

    model = Linear1x1([[0.5, 0.0], [0.0, 0.0]])
    with torch.no_grad():
        model.head.bias[1] = 0.5
    x = to_float(torch.tensor([230, 25, 230, 25], dtype=torch.uint8)).view(-1, 1, 1, 1)
    assert model(x).argmax(1).tolist() == [0, 1, 0, 1]
    found = scores(model, [230, 25, 230, 25], [0, 1, 0, 0], eps=0.2, alpha=0.1)
    assert found.tolist() == [0.75, 0.75]


class TwoColours(nn.Module):
    """Channel 0 sees red, which decides the class; channel 1 sees green, which nobody reads."""

    def __init__(self, decides: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1, bias=False)
        self.decides = decides
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(2).view(2, 2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        value = self.conv(x).flatten(1)[:, self.decides]
        # Class 0 only very near 0.5: a step in any direction leaves it.
        return F.pad((0.12 - (value - 0.5).abs()).unsqueeze(1), (0, 1))


@pytest.mark.parametrize("decides", [0, 1])
def test_the_channel_that_breaks_the_model_scores_lowest(decides):
    """The decisive colour ends 0.2 away from 0.5, the other start alone leaves it 0.1 away."""
    pixels = torch.full((4, 2, 1, 1), 128, dtype=torch.uint8)
    clean = Images(pixels, torch.zeros(4, dtype=torch.int64), ("a", "b"))
    defense = FMP(epochs=0, p=2, eps=0.2, alpha=0.1, ranking_images=4)
    repair = defense.repair(TwoColours(decides), clean, RUN)
    expected = [1.0, 1.0]
    expected[decides] = 0.0
    assert repair.scores["conv"].tolist() == expected
    assert repair.silenced["conv"].tolist() == [score == 0 for score in expected]
