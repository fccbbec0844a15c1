"""Ranking: how the model does on the images made for every channel. Step 2 of FMP.

`Ranker.rank` scores every channel on every image. Most of it runs in the run's precision; in
bfloat16 a prediction near the decision boundary may fall on the other side, so the pairs of channel
and image that could change what is pruned are done again in float32.

`Ranker.race` spends images where they matter: all channels see a few images, the least suspect
drop out, the others see more (successive halving: Jamieson, Talwalkar, AISTATS 2016, 1502.07943).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core import memory
from ..core.modules import frozen, in_mode
from ..core.run import Run
from ..network.layers import Layer
from ..network.lean import lean
from .reverse import Nudge, Reversal, moved_rows

HEATS = ((1 / 8, 0.6), (1 / 4, 0.36), (3 / 8, 0.22), (1 / 2, 0.14), (3 / 4, 0.07))
"""Of a race: after this share of the images, this share of the channels goes on."""

SOFTNESS = 0.3
"""How far from the boundary an image still tells a little, in spreads between channels."""


Kind = Literal["accuracy", "one_class", "margin"]
"""What a channel is scored by; see `_Outcome`."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """How the model does on the images made for each channel of a layer: float32 `[channels]`.

    The score is the accuracy, unless another kind was asked for; the lower, the more suspect. Nan
    for a channel that dropped out of a race.
    """

    score: Tensor
    loss: Tensor

    def suspects(self, count: int) -> Tensor:
        """Bool `[channels]`, True for the `count` of lowest score; ties fall by largest loss."""
        by_loss = torch.argsort(self.loss.nan_to_num(nan=-torch.inf), descending=True, stable=True)
        score = self.score.nan_to_num(nan=torch.inf)[by_loss]
        mask = torch.zeros(len(by_loss), dtype=torch.bool)
        mask[by_loss[torch.argsort(score, stable=True)[:count]]] = True
        return mask


@dataclass(frozen=True, eq=False)
class _Outcome:
    """What became of each image under each channel's nudge: float32 `[channels, n]`, nan unseen.

    The margin is the true class's logit less the largest other one, that of the `rival` class:
    positive where still right. `push` is how far the channel's own map was moved (RMS), and 0 where
    nobody asks for it; `calm` float32 `[n]` the margin on the clean images.
    """

    margin: Tensor
    loss: Tensor
    rival: Tensor
    push: Tensor
    calm: Tensor

    def ranking(self, kind: Kind = "accuracy") -> Ranking:
        whole = ~self.margin.isnan().any(1)
        kinds = {"accuracy": self._accuracy, "one_class": self._spread, "margin": self._rise}
        score = kinds[kind]()
        unseen = torch.full_like(score, torch.nan)
        return Ranking(
            torch.where(whole, score, unseen).cpu(),
            torch.where(whole, self.loss.mean(1), unseen).cpu(),
        )

    def _accuracy(self) -> Tensor:
        return (self.margin > 0).float().mean(1)

    def _spread(self) -> Tensor:
        """1 less the largest share of the images that one wrong class draws."""
        wrong = (self.margin <= 0).float()
        rival = self.rival.nan_to_num().long()
        drawn = wrong.new_zeros(len(wrong), int(rival.max()) + 1).scatter_add(1, rival, wrong)
        return 1 - drawn.amax(1) / wrong.shape[1]

    def _rise(self) -> Tensor:
        """The mean rise of the margin (mostly a fall) for each unit that the map was moved."""
        moved = self.push.mean(1)
        rise = (self.margin - self.calm).mean(1) / moved
        return torch.where(moved > 0, rise, 0.0)  # a map that never moves tells nothing


class Ranker:
    """Scores the channels of a model's layers on clean images.

    `x` is `[n, c, h, w]` in [0, 1] with labels `y` int64 `[n]`; `signs` the random directions of
    the start, -1 or 1, like `x`. All of it, and the model, on `run.device`. With `together` all
    images of a channel, and no others, go through the model at once.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        signs: Tensor,
        nudge: Nudge,
        run: Run,
        kind: Kind = "accuracy",
        *,
        together: bool = False,
    ) -> None:
        self.model, self.fast = model, lean(model, x[:2], run)
        self.x, self.y, self.signs, self.nudge, self.run = x, y, signs, nudge, run
        self.rows = len(x) if together else rows_per_pass(self.fast, x, run)
        self.kind: Kind = kind

    def rank(self, layer: Layer, count: int | None, advance: Callable[[int], None]) -> Ranking:
        """The ranking of all channels of `layer`, of which the first `count` are to be right.

        None: every score is. `advance` is told of each channel finished.
        """
        with in_mode(self.model, train=False), frozen(self.model):
            outcome = self._unseen(layer)
            everyone = torch.arange(layer.channels, device=self.x.device)
            everything = torch.arange(len(self.x), device=self.x.device)
            self._see(outcome, layer, everyone, everything, advance)
            if self.run.dtype != torch.float32:
                self._settle(outcome, layer, count)
        return outcome.ranking(self.kind)

    def race(self, layer: Layer, count: int, advance: Callable[[int], None]) -> Ranking:
        """The ranking of the channels of `layer` that are plausible for the first `count`.

        By accuracy alone. `advance` is told of each channel that dropped out or finished.
        """
        with in_mode(self.model, train=False), frozen(self.model):
            outcome = self._unseen(layer)
            running = torch.arange(layer.channels, device=self.x.device)
            order, seen = self._telling(outcome, layer), 0
            for share, staying in HEATS:
                until = max(1, seen, round(share * len(order)))
                self._see(outcome, layer, running, order[seen:until], lambda _: None)
                seen = until
                places = max(3 * count, round(staying * layer.channels))
                first = _hits(outcome.margin[running][:, order[:seen]]).argsort()[:places]
                advance(len(running) - len(first))
                running = running[first]
            self._see(outcome, layer, running, order[seen:], lambda _: None)
            if self.run.dtype != torch.float32:
                self._settle(outcome, layer, count)
            advance(len(running))
        return outcome.ranking()

    def _unseen(self, layer: Layer) -> _Outcome:
        blank = torch.full((4, layer.channels, len(self.x)), torch.nan, device=self.x.device)
        calm = torch.zeros(len(self.x), device=self.x.device)
        everything = torch.arange(len(self.x), device=self.x.device)
        if self.kind == "margin":
            for places in torch.split(everything, self.rows):
                x, y = self.x[places][None], self.y[places][None]
                calm[places] = verdicts(self.model, x, y, _exact(self.run))[0, 0]
        margin, loss, rival, push = blank.unbind()
        return _Outcome(margin, loss, rival, push, calm)

    def _see(
        self,
        outcome: _Outcome,
        layer: Layer,
        channels: Tensor,
        images: Tensor,
        advance: Callable[[int], None],
    ) -> None:
        """Fills in `outcome` for the `channels` on the `images` (int64 indices of both)."""
        if not len(images):  # few images are no whole share of a race
            return
        blocks = torch.split(images, self.rows)
        for number, block in enumerate(blocks):
            x, y, signs = self.x[block], self.y[block], self.signs[block]
            made = Reversal(self.model, self.fast, layer, x, signs, self.nudge, self.run)
            for some in torch.split(channels, max(1, self.rows // len(block))):
                at, moved = (some[:, None], block), made.images(some)
                seen = verdicts(self.fast, moved, y.expand(len(some), -1), self.run)
                outcome.margin[at], outcome.loss[at], outcome.rival[at] = seen
                outcome.push[at] = made.push(some, moved) if self.kind == "margin" else 0.0
                if number + 1 == len(blocks):
                    advance(len(some))
            del made  # or its maps stay while the next block's are made

    def _telling(self, outcome: _Outcome, layer: Layer) -> Tensor:
        """The images, those first that two channels leave near the decision boundary.

        On the others nearly all channels do equally well, so they tell channels apart last.
        """
        few = torch.arange(0, layer.channels, max(1, layer.channels - 1), device=self.x.device)[:2]
        everything = torch.arange(len(self.x), device=self.x.device)
        self._see(outcome, layer, few, everything, lambda _: None)
        return outcome.margin[few].mean(0).abs().argsort()

    def _settle(self, outcome: _Outcome, layer: Layer, count: int | None) -> None:
        """Does again in float32 what could change which `count` channels come first.

        The error of a margin is measured on a sample of pairs. A channel is open while its hits
        could lie on either side of the last place, three standard deviations allowed; of an open
        channel, the pairs whose margin lies within three standard deviations of 0 are done again.
        Without a `count` every channel is open.
        """
        seen = (~outcome.margin.isnan()).nonzero()
        if count == 0 or not len(seen):
            return
        pick = torch.linspace(0, len(seen) - 1, max(32, len(seen) // 512)).long()
        sample = seen[pick.to(seen.device)]
        rough = outcome.margin[tuple(sample.T)]
        self._redo(outcome, layer, sample)
        error = (outcome.margin[tuple(sample.T)] - rough).std().clamp_min(1e-6)
        chance = torch.special.ndtr(outcome.margin / error)
        hits, doubt = chance.sum(1), (chance * (1 - chance)).sum(1).sqrt()
        is_open = torch.ones_like(hits, dtype=torch.bool)
        if count is not None:
            last = hits.nan_to_num(nan=torch.inf).sort().values[count - 1]
            is_open = (hits - 3 * doubt <= last + 0.5) & (hits + 3 * doubt >= last - 0.5)
        self._redo(
            outcome, layer, (is_open[:, None] & (outcome.margin.abs() < 3 * error)).nonzero()
        )

    def _redo(self, outcome: _Outcome, layer: Layer, pairs: Tensor) -> None:
        """Fills in `outcome` for the `pairs` int64 `[m, 2]` of channel and image, in float32."""
        if not len(pairs):
            return
        exact = _exact(self.run)
        for some in torch.split(pairs, self.rows):
            channels, images = some.T
            x, y, signs = self.x[images], self.y[images], self.signs[images]
            moved = moved_rows(self.model, layer, channels, x, signs, self.nudge)
            found = verdicts(self.model, moved[None], y[None], exact)
            planes = outcome.margin, outcome.loss, outcome.rival
            for plane, value in zip(planes, found[:, 0], strict=True):
                plane[channels, images] = value


def _exact(run: Run) -> Run:
    """`run` in float32, without its progress."""
    return Run(run.seed, run.device, "fp32")


def _hits(margin: Tensor) -> Tensor:
    """Hits `[k]` of channels by `margin` `[k, n]`, softened: an image counts a part by how near
    the boundary it lies, measured by the spread between channels, which is another in each model.
    """
    spread = (margin - margin.mean(0)).square().mean().sqrt().clamp_min(1e-6)
    hits: Tensor = torch.special.ndtr(margin / (SOFTNESS * spread)).sum(1)
    return hits


def rows_per_pass(model: nn.Module, x: Tensor, run: Run) -> int:
    """How many images one pass takes: as many as stay near the caches of a CPU, 2,048 on a GPU.

    Fewer where these would take more than half of the memory that is free.
    """
    at_32 = 64 if run.device.type == "cpu" else 2048
    rows = max(1, at_32 * 32 * 32 // (x.shape[-1] * x.shape[-2]))
    room, each = memory.free_bytes(run.device) / 2, memory.bytes_per_image(model, x[:1], run)
    while rows > 1 and rows * each > room:
        rows //= 2  # in halves, so that what else runs on the machine seldom changes a bit
    return rows


def verdicts(model: nn.Module, moved: Tensor, y: Tensor, run: Run) -> Tensor:
    """(margin, loss, rival) `[3, k, n]` of `model` on the images `moved` `[k, n, c, h, w]`.

    `y` is `[k, n]`. The margin is the true class's logit less the largest other one, that of the
    rival: positive where still right.
    """
    flat = moved.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), run.autocast():
        logits = model(flat).float()
    truth = y.reshape(-1)
    own = logits.gather(1, truth[:, None])[:, 0]
    others, rival = logits.scatter(1, truth[:, None], -torch.inf).max(1)
    loss = F.cross_entropy(logits, truth, reduction="none")
    return torch.stack([own - others, loss, rival.float()]).view(3, *y.shape)
