"""Ranking: how the model does on the images made for every channel. Step 2 of FMP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .channels import Layer
from .modules import frozen, in_mode
from .reverse import Nudge, Reversal, in_precision
from .run import Run


@dataclass(frozen=True, eq=False)
class Ranking:
    """How the model does on the images made for each channel of a layer: float32 `[channels]`."""

    accuracy: Tensor
    loss: Tensor

    def suspects(self, count: int) -> Tensor:
        """Bool `[channels]`, True for the `count` of lowest accuracy; ties fall by largest loss."""
        by_loss = torch.argsort(self.loss, descending=True, stable=True)
        order = by_loss[torch.argsort(self.accuracy[by_loss], stable=True)]
        mask = torch.zeros(len(order), dtype=torch.bool)
        mask[order[:count]] = True
        return mask


class Ranker:
    """Scores the channels of a model's layers on clean images.

    `x` is `[n, c, h, w]` in [0, 1] with labels `y` int64 `[n]`; `signs` the random directions of
    the start, -1 or 1, like `x`. All of it, and the model, on `run.device`.
    """

    def __init__(
        self, model: nn.Module, x: Tensor, y: Tensor, signs: Tensor, nudge: Nudge, run: Run
    ) -> None:
        self.model, self.fast = model, in_precision(model, run)
        self.x, self.y, self.signs, self.nudge, self.run = x, y, signs, nudge, run
        self.rows = rows_per_pass(x, run.device)

    def rank(self, layer: Layer, advance: Callable[[int], None]) -> Ranking:
        """The ranking of the channels of `layer`; `advance` is told of each one finished."""
        outcomes = []
        with in_mode(self.model, train=False), frozen(self.model):
            blocks = range(0, len(self.x), self.rows)
            for start in blocks:
                outcomes.append(self._outcome(layer, slice(start, start + self.rows), advance))
        hits, losses = torch.cat(outcomes, 2).cpu()
        return Ranking((hits > 0).float().mean(1), losses.mean(1))

    def _outcome(self, layer: Layer, block: slice, advance: Callable[[int], None]) -> Tensor:
        """(margin, loss) `[2, channels, images of the block]`."""
        x, y = self.x[block], self.y[block]
        reversal = Reversal(
            self.model, self.fast, layer, x, self.signs[block], self.nudge, self.run
        )
        at_once = max(1, self.rows // len(x))
        found = []
        for channels in torch.split(torch.arange(layer.channels, device=x.device), at_once):
            found.append(outcome(self.fast, reversal.images(channels), y, self.run))
            advance(len(channels) * len(x))
        return torch.cat(found, 1)


def rows_per_pass(x: Tensor, device: torch.device) -> int:
    """How many images one pass takes: as many as stay near the caches of a CPU, 2,048 on a GPU."""
    at_32 = 32 if device.type == "cpu" else 2048
    return max(1, at_32 * 32 * 32 // (x.shape[-1] * x.shape[-2]))


def outcome(model: nn.Module, moved: Tensor, y: Tensor, run: Run) -> Tensor:
    """(margin, loss) `[2, k, n]` of `model` on the images `moved` `[k, n, c, h, w]`.

    The margin is the true class's logit less the largest other one: positive where still right.
    """
    k, n = moved.shape[:2]
    flat = moved.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), run.autocast():
        logits = model(flat).float()
    truth = y.repeat(k)
    own = logits.gather(1, truth[:, None])[:, 0]
    others = logits.scatter(1, truth[:, None], -torch.inf).amax(1)
    loss = F.cross_entropy(logits, truth, reduction="none")
    return torch.stack([own - others, loss]).view(2, k, n)
