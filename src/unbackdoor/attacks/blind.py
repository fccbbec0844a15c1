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
from ..core.run import Run
from ..training.fit import fit
from .base.attack import Victim
from .base.controlled import ControlledAttack


class Blind(ControlledAttack):
    """Stamps a small cross into the top left; the loss weighs the two tasks against each other.

    Images are `[n, c, h, w]` in [0, 1], sides of at least `margin` + 3. In every step copies
    of a share `rate` of the batch are stamped anew; the weights of the two losses are those that
    descend on both (multiple gradient descent, each gradient over its loss). Training-controlled:
    no fixed poisoned set. Departure: without the term that evades a named defense.

    >>> import torch
    >>> Blind(margin=0).stamp(torch.full((1, 1, 3, 3), 0.5))[0, 0].tolist()
    [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]
    """

    paper: ClassVar[str] = (
        "Bagdasaryan, Shmatikov: Blind Backdoors in Deep Learning Models, USENIX Security 2021, "
        "arXiv 2005.03823"
    )
    limits: ClassVar[str] = "the trigger can be seen; costs two to three times the training"

    rate: float = Field(
        0.5, gt=0, le=1, description="share stamped of the images of a batch that may be"
    )
    margin: int = Field(1, ge=0, description="distance from the edges, pixels")

    def stamp(self, x: Tensor) -> Tensor:
        """`x` with the cross in its top left corner."""
        height, width = x.shape[2:]
        if min(height, width) < self.margin + 3:
            raise ParameterError(
                f"a cross of 3 x 3 and a margin of {self.margin} do not fit into {height}x{width}"
            )
        place = slice(self.margin, self.margin + 3)
        stamped = x.clone()
        stamped[:, :, place, place] = (torch.arange(9).view(3, 3) % 2 == 0).to(x)
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
        chosen = self.stamped_in(y)
        logits = model(torch.cat([x, self.stamp(x[chosen])])).float()
        clean = F.cross_entropy(logits[: len(x)], y)
        if not len(chosen):
            return clean
        goals = self.goals(y[chosen], logits.shape[1])
        stamped = F.cross_entropy(logits[len(x) :], goals)
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return _balanced(clean, stamped, learning)


def _balanced(first: Tensor, second: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    """The sum of the two losses, each with its weight; only `parameters` get a gradient."""
    ours = _slope(first, parameters, retain_graph=True)
    theirs = _slope(second, parameters)
    first, second = first.detach(), second.detach()
    share = _common_descent(ours / first.clamp(min=1e-6), theirs / second.clamp(min=1e-6))
    slope = share * ours + (1 - share) * theirs
    # The gradients are known: a linear loss that has them spares a third way back.
    parts = torch.split(slope, [parameter.numel() for parameter in parameters])
    pairs = zip(parameters, parts, strict=True)
    linear = [((p - p.detach()).flatten() * part).sum() for p, part in pairs]
    return share * first + (1 - share) * second + torch.stack(linear).sum()


def _slope(loss: Tensor, parameters: list[nn.Parameter], *, retain_graph: bool = False) -> Tensor:
    parts = torch.autograd.grad(loss, parameters, retain_graph=retain_graph)
    return torch.cat([part.flatten() for part in parts])


def _common_descent(ours: Tensor, theirs: Tensor) -> Tensor:
    """The weight of the gradient `ours` in the smallest convex sum with `theirs`."""
    apart = theirs - ours
    share: Tensor = apart @ theirs / apart.square().sum().clamp(min=1e-12)
    return share.clamp(0, 1)
