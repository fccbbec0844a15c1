"""Adversarial patches: squares that send all images to a class, found by their gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDES = (0.1, 0.2)
"""Sides of the squares, of the image's shorter side, at least and at most (3 to 6 of 32 pixels)."""

PLACES = 3
"""So many squares of each side are tried."""

STEP = 0.5
"""How far a value of the patch moves in a step, of [0, 1]."""

WEAK = 0.2
"""Values whose gradient is weaker, of the strongest, do not move."""

SMALL, FEWEST = 32 * 32, 16
"""Of larger images fewer are searched, for time, but not fewer than so many."""

FIRST = 20
"""The first search tries so many classes."""

KEPT = 20
"""How many patches are kept; the weakest when it was found goes."""

UNTRIED = 0.1
"""The least chance of a class to be searched again, where 1 is that of a class that all images
went to."""


class Patches:
    """Patches that were found, from which `put` draws: a memory that keeps a model from relapsing.

    A model that has unlearned one patch may obey it again some steps later, while gradients no
    longer lead there. So a patch stays after it was found.

    `search` looks for one more, towards a class that is drawn by how well patches led to it so far;
    the first one does so for many classes. The place is the square in which the gradient, times the
    room that is left to black or white, pulls most towards the class; a few steps then choose the
    values.

    `state` holds all that changes, so that it can be saved with an optimizer's.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.state: dict[str, Any] = {"found": [], "hits": []}

    def search(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        """Finds another for `model`, on the images `x` `[n, c, h, w]` of classes `y` `[n]`."""
        hits: list[float] = self.state["hits"]
        few = max(FEWEST, int(len(x) * SMALL / x[0, 0].numel()))
        x, y = x[:few], y[:few]
        if hits:
            weights = torch.tensor(hits).clamp_min(UNTRIED)
            half = len(x) // 2 or 1  # for time
            self._search(model, x[:half], y[:half], int(torch.multinomial(weights, 1)))
            return
        with torch.no_grad():
            classes = model(x[:1]).shape[1]
        hits.extend([1.0] * classes)
        for towards in torch.randperm(classes)[:FIRST].tolist():
            self._search(model, x, y, towards)

    def put(self, x: Tensor) -> Tensor:
        """The images `x` `[n, c, h, w]` with a patch each, the better ones more often.

        None is put on quite as it was found, lest the model learns to tell just that one: some are
        of one colour, moved by a pixel, half transparent or have holes.
        """
        found, n = self.state["found"], len(x)
        chances = torch.tensor([hits for hits, _, _ in found]) ** 2 + UNTRIED**2
        drawn = torch.multinomial(chances, n, replacement=True).tolist()
        cover = torch.cat([found[place][1] for place in drawn]).to(x)
        values = torch.cat([found[place][2] for place in drawn]).to(x)
        plain = (values * cover).sum((2, 3), keepdim=True) / cover.sum((2, 3), keepdim=True)
        plain = plain.round().lerp(plain, 0.3).expand_as(values)
        values = torch.where(_draw(x) < 0.5, plain, values)
        holes = torch.rand(cover.shape, device=x.device) < 0.4 * _draw(x)
        cover = cover * ~holes * (0.4 + 0.6 * _draw(x))
        moves = torch.randint(-1, 2, (2,)).tolist()
        return torch.lerp(x, values.roll(moves, (2, 3)), cover.roll(moves, (2, 3)))

    def _search(self, model: nn.Module, x: Tensor, y: Tensor, towards: int) -> None:
        cover, values = found_patch(model, x, towards, self.steps)
        with torch.no_grad():
            said = model(torch.lerp(x, values, cover)).argmax(1)[y != towards]
        share = float((said == towards).float().mean()) if len(said) else 0.0
        self.state["hits"][towards] = share
        found = [*self.state["found"], (share, cover.cpu(), values.cpu())]
        self.state["found"] = sorted(found, key=lambda one: one[0])[-KEPT:]


def found_patch(model: nn.Module, x: Tensor, towards: int, steps: int) -> tuple[Tensor, Tensor]:
    """A square of the images `x` `[n, c, h, w]` in [0, 1], and values that send them to a class.

    The square is float `[1, 1, h, w]`, 1 inside and 0 outside; the values are `[1, c, h, w]`. It
    costs `steps + 1` gradients, and a pass without one for each of the `SIDES` and `PLACES`.
    """
    goal = torch.full((len(x),), towards, device=x.device)

    def told(images: Tensor) -> Tensor:
        logits: Tensor = model(images)
        return logits.float()

    def slope(values: Tensor, images: Tensor) -> Tensor:
        return torch.autograd.grad(F.cross_entropy(told(images), goal), values)[0].float()

    change = torch.zeros_like(x[:1]).requires_grad_()
    pull = slope(change, x + change)
    values = (pull < 0).to(x)
    room = torch.where(pull < 0, 1 - x, x).mean(0, keepdim=True)
    squares = _strongest((pull.abs() * room).sum(1, keepdim=True))
    with torch.no_grad():
        won = [told(torch.lerp(x, values, each)).softmax(1)[:, towards].mean() for each in squares]
    cover = squares[int(torch.stack(won).argmax())].to(x)
    for _ in range(steps):
        values.requires_grad_()
        pull = slope(values, torch.lerp(x, values, cover))
        moved = STEP * pull.sign() * (pull.abs() > WEAK * pull.abs().max())
        values = (values.detach() - moved).clamp(0, 1)
    return cover, values


def _strongest(strength: Tensor) -> list[Tensor]:
    """Squares of the image in which `strength` `[1, 1, h, w]` is greatest, some for each side."""
    height, width = strength.shape[2:]
    low, high = (max(1, round(share * min(height, width))) for share in SIDES)
    found = []
    for side in sorted({round(low + (high - low) * part / 3) for part in range(4)}):
        mean = F.avg_pool2d(strength, side, 1)
        for _ in range(PLACES):
            top, left = divmod(int(mean.flatten().argmax()), mean.shape[-1])
            square = torch.zeros_like(strength)
            square[..., top : top + side, left : left + side] = 1
            found.append(square)
            rows, columns = (slice(max(0, at - side + 1), at + side) for at in (top, left))
            mean[..., rows, columns] = 0  # the next one does not overlap
    return found


def _draw(x: Tensor) -> Tensor:
    """A number in [0, 1) for each image, `[n, 1, 1, 1]`."""
    return torch.rand(len(x), 1, 1, 1, device=x.device)
