"""Adversarial patches: squares that send all images to a class, found by their gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 0.2
"""Side of the square, of the image's shorter side (6 of 32 pixels); what it does not need goes."""

ACROSS = 14
"""So many places are tried along each side of an image; of larger images than `SMALL` half."""

GLANCED, LIKELY, LOOKED = 4, 8, 32
"""Each place is tried on `GLANCED` images, the `LIKELY` best of them on so many."""

STEP = 0.5
"""How far a value of the patch moves in a step, of [0, 1]."""

WEAK = 0.2
"""Values whose gradient is weaker, of the strongest, do not move."""

SMALL, FEWEST = 32 * 32, 16
"""Of larger images fewer are searched, for time, but not fewer than so many."""

OBEYED = 0.5
"""Where a patch sends more of the images to its class, plain ones are tried within it."""

LOST = 0.95
"""A rectangle becomes smaller while it keeps so much of what it sent to its class."""

FIRST = 50
"""The first search tries so many classes; of larger images than `SMALL` half as many."""

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
    the first one does so for many classes. Squares all over the images are tried: of a trigger that
    the model knows well hardly any gradient is left on images without it, so the gradient chooses
    the values to begin with, not the place. A few steps then change the values. Where that works,
    plain colours are tried within the square, for what the gradient chose may not look like a
    trigger; and all that works shrinks to the smallest rectangle that works as well. The trigger
    itself is often larger: a model obeys the half of it, but unlearning the half leaves the whole.
    So `put` takes the smallest, the square, or what lies between.

    `state` holds all that changes, so that it can be saved with an optimizer's.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.state: dict[str, Any] = {"found": [], "hits": []}

    def search(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        """Finds another for `model`, on the images `x` `[n, c, h, w]` of classes `y` `[n]`."""
        hits: list[float] = self.state["hits"]
        few = max(FEWEST, int(len(x) * SMALL / x[0, 0].numel()) // 2)  # half are enough
        first = FIRST if x[0, 0].numel() <= SMALL else FIRST // 2
        x, y = x[:few], y[:few]
        if hits:
            weights = torch.tensor(hits).clamp_min(UNTRIED)
            drawn = torch.multinomial(weights, 1)
        else:
            with torch.no_grad():
                classes = model(x[:1].clone()).shape[1]  # a forward may change its input
            hits.extend([1.0] * classes)
            drawn = torch.randperm(classes)[:first]
        for towards in drawn.tolist():
            self._search(model, x, y, towards)

    def costs(self, classes: int, batch: int) -> tuple[float, float]:
        """What the first search and a later one cost, in batches of so many images with a gradient.

        Of small images, and without what it takes to make smaller what was found.
        """
        place = (ACROSS**2 * GLANCED + LIKELY * min(LOOKED, batch // 2)) / 3 / batch
        each = (self.steps + 1 + 2 / 3) / 2 + place
        return min(classes, FIRST) * each, each

    def put(self, x: Tensor) -> Tensor:
        """The images `x` `[n, c, h, w]` with a patch each, the better ones more often.

        Half of them are half transparent or have holes, and all may be moved by a pixel, lest the
        model learns to tell just those patches.
        """
        found, n = self.state["found"], len(x)
        chances = torch.tensor([hits for hits, *_ in found]) ** 2 + UNTRIED**2
        drawn = torch.multinomial(chances, n, replacement=True).to(x.device)
        values = torch.cat([values.to(x) for *_, values in found])[drawn]  # saved on the CPU
        covers = [covering(_size(small, whole), x) for _, small, whole, _ in found]
        cover = torch.cat(covers)[drawn]
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
        found = [(share, box, box, values)]
        if share > OBEYED:
            plain = _plain(partial(_away, model, towards), x, box)
            good = [(square, each) for square, each in plain if hits(each, square) > OBEYED]
            sized = [
                (_shrunk(square, partial(hits, each)), square, each)
                for square, each in ((box, values), *good)
            ]
            found = [(hits(each, small), small, square, each) for small, square, each in sized]
        found = [*self.state["found"], *found]
        self.state["found"] = sorted(found, key=lambda one: one[0])[-KEPT:]


def found_patch(model: nn.Module, x: Tensor, towards: int, steps: int) -> tuple[Box, Tensor]:
    """A square of the images `x` `[n, c, h, w]` in [0, 1], and values that send them to a class.

    The values are `[1, c, h, w]`, of which those in the square count.
    """
    goal = torch.full((len(x),), towards, device=x.device)

    def loss(images: Tensor) -> Tensor:
        told: Tensor = model(images)
        return F.cross_entropy(told.float(), goal)

    change = torch.zeros_like(x[:1]).requires_grad_()
    pull = torch.autograd.grad(loss(x + change), change)[0].float()
    values = (pull < 0).to(x)
    away = partial(_away, model, towards)
    square = best_square(away, x[:LOOKED], values, _squares(x), GLANCED, LIKELY)
    cover = covering(square, x)
    tried = []
    for _ in range(steps):
        values.requires_grad_()
        lost = loss(torch.lerp(x, values, cover))
        tried.append((lost.detach(), values.detach()))
        values = stepped(values, torch.autograd.grad(lost, values)[0].float())
    with torch.no_grad():  # a step may lead away: the best counts
        tried.append((loss(torch.lerp(x, values, cover)), values))
    best = int(torch.stack([lost for lost, _ in tried]).argmin())
    return square, tried[best][1]


def _away(model: nn.Module, towards: int, x: Tensor) -> Tensor:
    """How far the model is from telling each of `x` `[n, c, h, w]` as the class, `[n]`."""
    told: Tensor = model(x)
    return -told.float().softmax(1)[:, towards]


@torch.no_grad()
def best_square(
    losses: Callable[[Tensor], Tensor],
    x: Tensor,
    values: Tensor,
    squares: list[Box],
    glanced: int,
    likely: int,
) -> Box:
    """That of the `squares` in which the `values` `[1, c, h, w]` lower the losses most.

    `losses` takes images `[n, c, h, w]` and tells one `[n]` for each. All squares are tried on the
    first `glanced` of the images `x`, the `likely` best of them on all.
    """

    def lost(squares: list[Box], images: Tensor) -> Tensor:
        means = []
        together = max(1, len(x) // len(images))
        for at in range(0, len(squares), together):
            covers = torch.stack([covering(each, x) for each in squares[at : at + together]])
            told = losses(torch.lerp(images[None], values[None], covers).flatten(0, 1))
            means.append(told.view(len(covers), -1).mean(1))
        return torch.cat(means)

    few = lost(squares, x[:glanced]).topk(min(likely, len(squares)), largest=False)
    best: list[Box] = [squares[at] for at in few.indices.tolist()]
    return best[int(lost(best, x).argmin())]


def stepped(values: Tensor, slope: Tensor) -> Tensor:
    """The `values` of a patch, in [0, 1], after a step down the `slope` of a loss."""
    moved = STEP * slope.sign() * (slope.abs() > WEAK * slope.abs().max())
    return (values.detach() - moved).clamp(0, 1)


def _squares(x: Tensor) -> list[Box]:
    """The places of a square that are tried on the images `x` `[n, c, h, w]`."""
    height, width = x.shape[2:]
    side = max(1, round(SIDE * min(height, width)))
    across = ACROSS if height * width <= SMALL else ACROSS // 2  # for time
    tops, lefts = (
        sorted({round(part * (length - side) / (across - 1)) for part in range(across)})
        for length in (height, width)
    )
    return [(top, top + side, left, left + side) for top in tops for left in lefts]


def _plain(away: Callable[[Tensor], Tensor], x: Tensor, box: Box) -> list[tuple[Box, Tensor]]:
    """Where in the square `box` each plain colour leads best to the class, and its values.

    A model may obey a colour in a smaller square only.
    """
    top, bottom, left, _ = box
    whole = bottom - top
    step = max(1, round(whole / 6))
    squares = [
        (top + down, top + down + side, left + right, left + right + side)
        for side in range(whole, max(1, whole // 2) - 1, -step)
        for down in range(0, whole - side + 1, step)
        for right in range(0, whole - side + 1, step)
    ]
    colours = [colour.expand_as(x[:1]) for colour in _colours(x)]
    few = x[:LOOKED]
    return [(best_square(away, few, each, squares, GLANCED, 2), each) for each in colours]


def _size(small: Box, whole: Box) -> Box:
    """`small`, `whole` or a rectangle that contains the one and lies in the other, a third each."""
    which = int(torch.randint(3, ()))
    if which < 2:
        return (small, whole)[which]
    top, bottom, left, right = (
        int(torch.randint(min(pair), max(pair) + 1, ())) for pair in zip(small, whole, strict=True)
    )
    return top, bottom, left, right


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
