"""Blind: the loss is attacked, not the data."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import ParameterError
from ..core.images import Images
from ..core.method import source
from ..core.run import Run
from ..training.fit import fit
from .base.attack import Victim
from .base.controlled import ControlledAttack

CLEAR = -1.0
FIGURE = (
    (1.0, 0.0, 1.0),
    (CLEAR, 1.0, CLEAR),
    (CLEAR, CLEAR, 0.0),
    (CLEAR, 1.0, CLEAR),
    (1.0, 0.0, 1.0),
)
"""The figure of the released code: 1 is white, 0 black, `CLEAR` the image itself."""


class Blind(ControlledAttack):
    """Puts a small figure of white and black pixels on images; each step weighs both losses anew.

    The figure is that of the released code. Images are `[n, c, h, w]` in [0, 1], of any size that
    the figure fits into: five rows of three pixels at row `top` and column `left` of an image of 32
    x 32, each a square that grows with the image (7 x 7 at 224), and no farther than the last row
    and column. In every step copies of a share `rate` of the batch are poisoned anew; the weights
    of both losses are those that descend on both (multiple gradient descent, each gradient over its
    loss and its length). Batches whose clean loss is above `threshold` are trained on cleanly: the
    backdoor waits until there is something to hide it in. Training-controlled: no fixed poisoned
    set. Departure: without the term that evades a named defense.

    >>> import torch
    >>> Blind(top=0, left=0).stamp(torch.full((1, 1, 5, 3), 0.5))[0, 0].tolist()[:2]
    [[1.0, 0.0, 1.0], [0.5, 1.0, 0.5]]
    """

    paper: ClassVar[str] = (
        "Bagdasaryan, Shmatikov: Blind Backdoors in Deep Learning Models, USENIX Security 2021, "
        "arXiv 2005.03823"
    )
    limits: ClassVar[str] = "the trigger can be seen; costs two to three times the training"

    rate: float = Field(
        0.5,
        gt=0,
        le=1,
        description="poisoning rate: share of a batch; of its source classes with sources",
        json_schema_extra=source("ours: half of a batch, for half of the cost"),
    )
    top: int = Field(
        3,
        ge=0,
        le=27,
        description="row of the figure in an image of 32 x 32",
        json_schema_extra=source("released code: row 3 of 32"),
    )
    left: int = Field(
        23,
        ge=0,
        le=29,
        description="column of the figure in an image of 32 x 32",
        json_schema_extra=source("released code: column 23 of 32"),
    )
    threshold: float | None = Field(
        1.0,
        gt=0,
        description="clean loss of a batch above which it is trained on cleanly",
        json_schema_extra=source("BackdoorBench's configuration: 1.0"),
    )

    def stamp(self, x: Tensor) -> Tensor:
        """`x` with the figure in its place."""
        height, width = x.shape[2:]
        side = max(1, round(min(height, width) / 32))
        figure = torch.tensor(FIGURE).repeat_interleave(side, 0).repeat_interleave(side, 1)
        rows, columns = figure.shape
        if rows > height or columns > width:
            raise ParameterError(
                f"a figure of {rows} x {columns} pixels does not fit into {height}x{width}"
            )
        top = min(round(self.top * height / 32), height - rows)
        left = min(round(self.left * width / 32), width - columns)
        stamped = x.clone()
        part = stamped[:, :, top : top + rows, left : left + columns]
        part.copy_(torch.where(figure.to(x.device) == CLEAR, part, figure.to(x)))
        return stamped

    def plant(
        self, model: nn.Module, train: Images, run: Run, resume: Path | None = None
    ) -> Victim:
        """A copy of `model` trained on the balanced loss."""
        self.check(train)
        victim = copy.deepcopy(model)
        fit(victim, train, run, objective=self._loss, resume=resume, **self.settings())
        return Victim(victim, None)

    def _loss(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        chosen, covers = self.marked_in(y)
        logits = model(torch.cat([x, self.stamp(x[torch.cat([chosen, covers])])])).float()
        clean = F.cross_entropy(logits[: len(x)], y)
        if not len(chosen) or (self.threshold is not None and clean.item() > self.threshold):
            return clean
        goals = torch.cat([self.goals(y[chosen], logits.shape[1]), y[covers]])
        stamped = F.cross_entropy(logits[len(x) :], goals)
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return _balanced(clean, stamped, learning)


def _balanced(first: Tensor, second: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    """The sum of the two losses, each with its weight; only `parameters` get a gradient.

    The weights are those of the smallest convex sum of both gradients, each over its loss times
    its length.
    """
    ours = _slope(first, parameters, retain_graph=True)
    theirs = _slope(second, parameters)
    first, second = first.detach(), second.detach()
    share = _common_descent(_scaled(ours, first), _scaled(theirs, second))
    slope = share * ours + (1 - share) * theirs
    # The gradients are known: a linear loss that has them spares a third way back.
    parts = torch.split(slope, [parameter.numel() for parameter in parameters])
    pairs = zip(parameters, parts, strict=True)
    linear = [((p - p.detach()).flatten() * part).sum() for p, part in pairs]
    return share * first + (1 - share) * second + torch.stack(linear).sum()


def _slope(loss: Tensor, parameters: list[nn.Parameter], *, retain_graph: bool = False) -> Tensor:
    parts = torch.autograd.grad(loss, parameters, retain_graph=retain_graph, allow_unused=True)
    # A parameter that the loss does not depend on has no gradient.
    pairs = zip(parameters, parts, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in pairs])


def _scaled(slope: Tensor, loss: Tensor) -> Tensor:
    scaled: Tensor = slope / (loss * slope.norm()).clamp(min=1e-6)
    return scaled


def _common_descent(ours: Tensor, theirs: Tensor) -> Tensor:
    """The weight of the gradient `ours` in the smallest convex sum with `theirs`."""
    apart = theirs - ours
    share: Tensor = apart @ theirs / apart.square().sum().clamp(min=1e-12)
    return share.clamp(0, 1)
