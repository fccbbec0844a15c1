"""Adversarial patches: squares that send all images to a class, found by their gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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

OBEYED = 0.5
"""Where a patch sends more of the images to its class, plain ones are tried in its place."""

LOST = 0.95
"""A rectangle becomes smaller while it keeps so much of what it sent to its class."""

FIRST = 20
"""The first search tries so many classes."""

KEPT = 20
"""How many patches are kept; the weakest when it was found goes."""

UNTRIED = 0.1
"""The least chance of a class to be searched again, where 1 is that of a class that all images
went to."""


Box = tuple[int, int, int, int]
"""(top, bottom, left, right) of a rectangle, in pixels; bottom and right are outside of it."""


class Patches:
    """Patches that were found, from which `put` draws: a memory that keeps a model from relapsing.

    A model that has unlearned one patch may obey it again some steps later, while gradients no
    longer lead there. So a patch stays after it was found.

    `search` looks for one more, towards a class that is drawn by how well patches led to it so far;
    the first one does so for many classes. The place is the square in which the gradient, times the
    room that is left to black or white, pulls most towards the class; a few steps then choose the
    values. Where that works, plain colours are tried in the same place, for what the gradient chose
    may not look like a trigger; and all that works shrinks to the rectangle that it needs.

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
            classes = model(x[:1].clone()).shape[1]  # a forward may change its input
        hits.extend([1.0] * classes)
        for towards in torch.randperm(classes)[:FIRST].tolist():
            self._search(model, x, y, towards)

    def put(self, x: Tensor) -> Tensor:
        """The images `x` `[n, c, h, w]` with a patch each, the better ones more often.

        Half of them are half transparent or have holes, and all may be moved by a pixel, lest the
        model learns to tell just those patches.
        """
        found, n = self.state["found"], len(x)
        chances = torch.tensor([hits for hits, _, _ in found]) ** 2 + UNTRIED**2
        drawn = torch.multinomial(chances, n, replacement=True).to(x.device)
        values = torch.cat([values.to(x) for _, _, values in found])[drawn]  # saved on the CPU
        cover = torch.cat([covering(box, x) for _, box, _ in found])[drawn]
        changed = (_draw(x) < 0.5).to(x)
        holes = torch.rand(cover.shape, device=x.device) < 0.4 * changed * _draw(x)
        cover = cover * ~holes * (1 - 0.6 * changed * _draw(x))
        moves = (torch.randint(-1, 2, (2,)) * torch.randint(2, ())).tolist()
        return torch.lerp(x, values.roll(moves, (2, 3)), cover.roll(moves, (2, 3)))

    def _search(self, model: nn.Module, x: Tensor, y: Tensor, towards: int) -> None:
        def hits(values: Tensor, box: Box) -> float:
            with torch.no_grad():
                said = model(torch.lerp(x, values, covering(box, x))).argmax(1)[y != towards]
            return float((said == towards).float().mean()) if len(said) else 0.0

        box, values = found_patch(model, x, towards, self.steps)
        share = hits(values, box)
        self.state["hits"][towards] = share
        found = [(share, box, values)]
        if share > OBEYED:
            plain = [colour.expand_as(values) for colour in _colours(x)]
            good = [each for each in plain if hits(each, box) > OBEYED]
            for each in (values, *good):
                small = _shrunk(box, partial(hits, each))
                found.append((hits(each, small), small, each))
        found = [*self.state["found"], *found]
        self.state["found"] = sorted(found, key=lambda one: one[0])[-KEPT:]


def found_patch(model: nn.Module, x: Tensor, towards: int, steps: int) -> tuple[Box, Tensor]:
    """A square of the images `x` `[n, c, h, w]` in [0, 1], and values that send them to a class.

    The values are `[1, c, h, w]`, of which those in the square count. It costs `steps + 1`
    gradients, and a pass without one for each of the `SIDES` and `PLACES`.
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
        tried = [torch.lerp(x, values, covering(each, x)) for each in squares]
        won = [told(each).softmax(1)[:, towards].mean() for each in tried]
    square = squares[int(torch.stack(won).argmax())]
    cover = covering(square, x)
    for _ in range(steps):
        values.requires_grad_()
        pull = slope(values, torch.lerp(x, values, cover))
        values = stepped(values, pull)
    return square, values


def stepped(values: Tensor, slope: Tensor) -> Tensor:
    """The `values` of a patch, in [0, 1], after a step down the `slope` of a loss."""
    moved = STEP * slope.sign() * (slope.abs() > WEAK * slope.abs().max())
    return (values.detach() - moved).clamp(0, 1)


def _strongest(strength: Tensor) -> list[Box]:
    """Squares of the image in which `strength` `[1, 1, h, w]` is greatest, some for each side."""
    height, width = strength.shape[2:]
    low, high = (max(1, round(share * min(height, width))) for share in SIDES)
    found = []
    for side in sorted({round(low + (high - low) * part / 3) for part in range(4)}):
        mean = F.avg_pool2d(strength, side, 1)
        for _ in range(PLACES):
            top, left = divmod(int(mean.flatten().argmax()), mean.shape[-1])
            found.append((top, top + side, left, left + side))
            rows, columns = (slice(max(0, at - side + 1), at + side) for at in (top, left))
            mean[..., rows, columns] = 0  # the next one does not overlap
    return found


def _shrunk(box: Box, hits: Callable[[Box], float]) -> Box:
    """The smallest rectangle within `box`, by one side after the other, that keeps its hits."""
    least = LOST * hits(box)
    places = list(range(4))
    step = max(1, (box[1] - box[0]) // 8)  # of large images, for time
    while places:
        place = places.pop(0)
        smaller = list(box)
        smaller[place] += step if place in (0, 2) else -step
        top, bottom, left, right = smaller
        if min(bottom - top, right - left) < 2 or hits((top, bottom, left, right)) < least:
            continue
        box = (top, bottom, left, right)
        places.append(place)
    return box


def covering(box: Box, x: Tensor) -> Tensor:
    """1 in the rectangle, 0 outside: `[1, 1, h, w]`, like the images `x` `[n, c, h, w]`."""
    top, bottom, left, right = box
    cover = torch.zeros_like(x[:1, :1])
    cover[..., top:bottom, left:right] = 1
    return cover


def _colours(x: Tensor) -> Tensor:
    """Black, white and the strongest colours, `[8, c, 1, 1]`; black and white for one channel."""
    channels = x.shape[1]
    if channels != 3:
        return torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, channels, 1, 1).to(x)
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3).view(8, 3, 1, 1).to(x)


def _draw(x: Tensor) -> Tensor:
    """A number in [0, 1) for each image, `[n, 1, 1, 1]`."""
    return torch.rand(len(x), 1, 1, 1, device=x.device)
