"""Trigger inversion: the smallest patch that sends clean images to a class.

Wang et al.: Neural Cleanse, IEEE S&P 2019.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.images import Images
from ..core.modules import frozen, in_mode
from ..core.run import Run


@dataclass(frozen=True, eq=False)
class Patch:
    """A trigger: `mask` `[h, w]` and `pattern` `[c, h, w]`, in [0, 1], and how often it works.

    `success` is the share of clean images that it sends to its class.
    """

    mask: Tensor
    pattern: Tensor
    success: float

    @property
    def size(self) -> float:
        """The sum of the mask, in pixels."""
        return float(self.mask.sum())

    def stamp(self, x: Tensor) -> Tensor:
        """The images `x` `[n, c, h, w]` in [0, 1] under the patch."""
        return _stamped(x, self.mask.to(x), self.pattern.to(x))


def _stamped(x: Tensor, mask: Tensor, pattern: Tensor) -> Tensor:
    return x + mask * (pattern - x)


@dataclass(frozen=True)
class Search:
    """How a patch is sought: Adam with rate `lr`, for `epochs` passes over the clean images.

    The price of a pixel of the mask starts at `cost`; after `patience` passes in a row with a
    success of at least `success` it doubles, after as many without it falls by 2^`fall`. Adam's
    betas are `betas`.
    """

    epochs: int = 80
    lr: float = 0.1
    batch: int = 128
    cost: float = 1e-3
    success: float = 0.98
    patience: int = 5
    fall: float = 1.5
    betas: tuple[float, float] = (0.5, 0.9)


def invert(
    model: nn.Module,
    target: int,
    clean: Images,
    run: Run,
    search: Search,
    advance: Callable[[int], None] = lambda _: None,
) -> Patch:
    """The smallest patch found that sends the clean images to `target` often enough.

    Where none did, the one that did most often. `advance` is told of each pass.
    """
    rng = run.rng(f"patch/{target}")
    c, h, w = clean.shape
    mask, pattern = (
        (torch.rand(shape, generator=rng) * 2 - 1).to(run.device).requires_grad_()
        for shape in ((h, w), (c, h, w))
    )
    adam = torch.optim.Adam([mask, pattern], lr=search.lr, betas=search.betas)
    cost, streak = search.cost, 0
    best: Patch | None = None
    with in_mode(model, train=False), frozen(model):
        for _ in range(search.epochs):
            hits = 0
            for x, _ in clean.batches(search.batch, rng):
                x = x.to(run.device)
                m, p = mask.sigmoid(), pattern.sigmoid()
                goals = torch.full((len(x),), target, device=x.device)
                with run.autocast():
                    logits = model(_stamped(x, m, p)).float()
                loss = F.cross_entropy(logits, goals) + cost * m.sum()
                adam.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                adam.step()
                hits += int((logits.argmax(1) == target).sum())
            found = Patch(
                mask.detach().sigmoid(), pattern.detach().sigmoid(), hits / max(1, len(clean))
            )
            best = _better(best, found, search.success)
            good = found.success >= search.success
            streak = max(1, streak + 1) if good else min(-1, streak - 1)
            if abs(streak) == search.patience:
                cost *= 2.0 if good else 2.0**-search.fall
                streak = 0
            advance(1)
    return best or Patch(mask.detach().sigmoid(), pattern.detach().sigmoid(), 0.0)


def _better(best: Patch | None, found: Patch, enough: float) -> Patch:
    if best is None:
        return found
    if min(best.success, found.success) >= enough:
        return min(best, found, key=lambda patch: patch.size)
    return max(best, found, key=lambda patch: patch.success)


def anomalies(sizes: Tensor) -> Tensor:
    """By how many deviations `[classes]` each class's patch is smaller than the median.

    The deviation is 1.4826 times the median absolute deviation; above 2 is an outlier. 0 for a
    class above the median, and for all where no size differs.
    """
    middle = sizes.quantile(0.5)
    deviation = 1.4826 * (sizes - middle).abs().quantile(0.5)
    tiny = torch.finfo(sizes.dtype).tiny
    return ((middle - sizes) / deviation.clamp_min(tiny)).clamp(0, 1e6)
