"""Universal transformations: turns, blurs and tones that send images to one class."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .disturbance import SHARP, blurred, moved
from .patches import FEWEST, SMALL

ANGLE, ZOOM, SHIFT = 45.0, 0.5, 0.15
"""The largest turn in degrees, change of size, and move, over half of the image's side."""

SIDE = 5
"""Side of the square that a blur averages over, of 32 pixels."""

TONE = 0.5
"""The largest logarithm of a colour plane's gamma."""

TRIED = 50
"""Images on which a transformation is tried, of 32x32; of larger ones fewer."""

FIRST, FRESH, NEAR = 48, 8, 4
"""The first search tries so many transformations, each later one so many new ones and so many that
lie near to what was found."""

OBEYED = 0.5
"""One is kept if it sends more of the images of other classes to one class."""

MOST = 0.3
"""The largest share of the disturbed images that gets one."""

LOST = 0.95
"""It becomes smaller while it keeps so much of what it sent there."""

BEST, KEPT = 3, 20
"""So many of a search are kept at most, and so many in all; the weakest when it was found goes."""

APART, CLOSE = 0.15, 0.08
"""How far from a known one its neighbours lie that are tried, and that are put on images."""


class Transforms:
    """Transformations that were found, from which `put` draws.

    A trigger may be no pattern: a turn, another size, a blur, other tones. No perturbation that
    could be added finds it, and a random disturbance hits it rarely. So transformations with a few
    parameters are drawn, and each is put on all images alike, as a trigger is. Images that
    are told rightly are changed; a transformation that sends more than `OBEYED` of them to one
    class is kept until the end, as small as that class allows: a shift that a turn does not need
    goes.

    `state` holds all that changes, so that it can be saved with an optimizer's.
    """

    def __init__(self) -> None:
        self.state: dict[str, Any] = {"found": [], "searched": False}

    @property
    def share(self) -> float:
        """The share of the disturbed images that gets one, the surer the best one works.

        0 at `OBEYED`, `MOST` if it sent all images to its class.
        """
        found = self.state["found"]
        return MOST * (found[-1][0] - OBEYED) / (1 - OBEYED) if found else 0.0

    @torch.no_grad()
    def search(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        """Tries some on `model`: images `x` `[n, c, h, w]` in [0, 1] of classes `y` `[n]`."""
        few = max(FEWEST, int(TRIED * SMALL / x[0, 0].numel()))
        x, y = x[:few], y[:few]
        right = model(x.clone()).argmax(1) == y  # others may go to that class as they are
        x, y = x[right], y[right]
        if len(x) < FEWEST // 2:
            return
        found = self.state["found"]
        fresh = FRESH if self.state["searched"] else FIRST
        kinds = list(KINDS) if x.shape[1] == 3 else [name for name in KINDS if name != "tone"]
        tried = [_drawn(kinds[place % len(kinds)]) for place in range(fresh)]
        if found:
            at = torch.multinomial(self._chances(), NEAR, replacement=True).tolist()
            tried += [(found[one][1], _near(found[one][2], APART)) for one in at]
        self.state["searched"] = True
        won = [(*_won(model(_put(x, *each)).argmax(1), y), *each) for each in tried]
        best = sorted(won, key=lambda one: one[0])[-BEST:]
        new = [_shrunk(model, x, y, *each) for each in best if each[0] > OBEYED]
        self.state["found"] = sorted([*found, *new], key=lambda one: one[0])[-KEPT:]

    def put(self, x: Tensor) -> Tensor:
        """The images `x` `[n, c, h, w]`, each after one that lies near to what was found.

        The better ones come more often.
        """
        drawn = torch.multinomial(self._chances(), len(x), replacement=True)
        changed = torch.empty_like(x)
        for one in set(drawn.tolist()):
            _, kind, values = self.state["found"][one]
            places = (drawn == one).nonzero().flatten().to(x.device)
            each = _near(values.expand(len(places), -1), CLOSE)
            changed[places] = _put(x[places], kind, each)
        return changed

    def _chances(self) -> Tensor:
        return torch.tensor([hits for hits, *_ in self.state["found"]]) - 0.9 * OBEYED


def costs(batch: int) -> tuple[float, float]:
    """What the first search and a later one cost, in batches of so many images with a gradient.

    Without what it takes to make smaller what was found.
    """
    share = min(TRIED, batch) / batch / 3
    return FIRST * share, (FRESH + NEAR) * share


def _placed(x: Tensor, values: Tensor) -> Tensor:
    angle, size, across, down = values.unbind(1)
    return moved(x, math.radians(ANGLE) * angle, 1 + ZOOM * size, SHIFT * across, SHIFT * down)


def _blurred(x: Tensor, values: Tensor) -> Tensor:
    weight = torch.where(values > 0, values, SHARP * values)
    return blurred(x, SIDE, weight.view(-1, 1, 1, 1))


def _toned(x: Tensor, values: Tensor) -> Tensor:
    return x ** (TONE * values).exp()[..., None, None]


KINDS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    "place": (_placed, 4),
    "blur": (_blurred, 1),
    "tone": (_toned, 3),
}
"""By name: (images, values `[n, k]` in [-1, 1], 0 for no change) -> images; and k."""


def _drawn(kind: str) -> tuple[str, Tensor]:
    return kind, 2 * torch.rand(1, KINDS[kind][1]) - 1


def _near(values: Tensor, far: float) -> Tensor:
    return (values + far * torch.randn_like(values)).clamp(-1, 1)


def _put(x: Tensor, kind: str, values: Tensor) -> Tensor:
    return KINDS[kind][0](x, values.expand(len(x), -1).to(x)).clamp(0, 1)


def _won(said: Tensor, y: Tensor, towards: int | None = None) -> tuple[float, int]:
    """The share of the other classes' images that went to a class; to that where most went."""
    wrong = said[said != y]
    if towards is None:
        towards = int(wrong.mode().values) if len(wrong) else 0
    return float((wrong == towards).sum() / (y != towards).sum().clamp_min(1)), towards


def _shrunk(
    model: nn.Module, x: Tensor, y: Tensor, hits: float, towards: int, kind: str, values: Tensor
) -> tuple[float, str, Tensor]:
    """A transformation as small as its class allows: all of it smaller, or a value left out."""
    least = LOST * hits
    smaller = [torch.full_like(values, share) for share in (0.5, 0.75)]
    alone = 1 - torch.eye(values.shape[1]) if values.shape[1] > 1 else torch.empty(0, 1)
    for part in (*smaller, *alone[:, None]):
        won, _ = _won(model(_put(x, kind, values * part)).argmax(1), y, towards)
        if won >= least:
            hits, values = won, values * part
    return hits, kind, values
