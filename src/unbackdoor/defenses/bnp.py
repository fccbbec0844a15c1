"""BNP: prunes the norm channels whose running statistics do not fit clean images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ..core.errors import ModelError
from ..core.images import Images, to_float
from ..core.method import source
from ..core.modules import in_mode
from ..core.run import Run
from ..network.moments import Moments
from ..network.norms import find_norms, outliers, silence_norms_
from .base.defense import Defense, Repair
from .base.needs import Need

MOST = 500 * 64 * 64
"""Pixels that go through the network at once, at most."""


class BNP(Defense):
    """Prunes the batch norm channels whose running statistics differ from clean images' statistics.

    A batch norm's running statistics come from the poisoned training set. The score of a channel
    is the divergence KL(clean || running) of the two normal distributions, the clean one from
    `images` clean images; channels above mean + `u` standard deviations of their layer go. The
    images go through in eval mode, as in the authors' published implementation: in train mode,
    where each norm is judged by itself, the same `u` cost a WRN-16-1 half of its accuracy. They
    go at once up to 64 x 64 pixels; larger ones in several passes, whose moments are pooled, for
    memory.
    Raises `ModelError` for a network without batch norms.
    """

    paper: ClassVar[str] = (
        "Zheng, Tang, Li, Liu: Pre-activation Distributions Expose Backdoor Neurons, NeurIPS 2022"
    )
    limits: ClassVar[str] = (
        "running statistics that were estimated anew on clean images, as after any fine-tuning, "
        "tell nothing; of its two methods EP is missing, which needs poisoned images"
    )
    needs: ClassVar[frozenset[Need]] = frozenset({"norms", "batch_norms"})

    u: float = Field(
        3.0,
        description="prune channels this many standard deviations above the layer's mean",
        json_schema_extra=source("authors' configuration: 3"),
    )
    images: int = Field(
        500,
        ge=2,
        description="largest number of clean images used",
        json_schema_extra=source("authors' configuration: one batch of 500"),
    )

    def check(self, model: nn.Module, clean: Images) -> None:
        """Refuses a network without batch norms."""
        super().check(model, clean)
        self._norms(model, clean)

    def work(self, images: int, classes: int) -> float | None:
        """Some images once, without a gradient."""
        return min(self.images, images) / 3

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model` without the channels whose statistics do not fit."""
        norms = self._norms(model, clean)
        found = seen(model, norms, clean.sample(self.images, run.rng("batch")), run)
        scores = {
            norm: divergence(
                one.mean, unbiased(one), *(t.to(one.mean) for t in _running(model, norm))
            )
            for norm, one in found.items()
        }
        scores = {norm: score.cpu() for norm, score in scores.items()}
        mask = {norm: outliers(score, self.u) for norm, score in scores.items()}
        silence_norms_(model, mask)
        return Repair(model, mask, scores)

    def _norms(self, model: nn.Module, clean: Images) -> list[str]:
        found = [
            norm
            for norm in find_norms(model, to_float(clean.pixels[:2]), self.name())
            if getattr(model.get_submodule(norm), "running_var", None) is not None
        ]
        if not found:
            raise ModelError(
                f"{self.name()} needs batch norms with running statistics; "
                f"{type(model).__name__} has none"
            )
        return found


def unbiased(one: Moments) -> Tensor:
    """The variance `[channels]` as norms estimate it for their running statistics."""
    return one.var * (one.count / max(1, one.count - 1))


@torch.no_grad()
def seen(
    model: nn.Module, norms: Sequence[str], clean: Images, run: Run, most: int = MOST
) -> dict[str, Moments]:
    """The moments of what each of the `norms` is given in eval mode, `most` pixels a pass."""
    found = {norm: Moments() for norm in norms}
    handles = [
        model.get_submodule(norm).register_forward_pre_hook(
            lambda _, args, norm=norm: found[norm].add(args[0].float())
        )
        for norm in norms
    ]
    _, height, width = clean.shape
    together = max(2, most // (height * width))
    try:
        with in_mode(model, train=False):
            for x, _ in clean.batches(together):
                model(x.to(run.device))
    finally:
        for handle in handles:
            handle.remove()
    return found


def _running(model: nn.Module, norm: str) -> tuple[Tensor, Tensor]:
    module = model.get_submodule(norm)
    assert isinstance(module.running_mean, Tensor) and isinstance(module.running_var, Tensor)
    return module.running_mean, module.running_var


def divergence(mean: Tensor, var: Tensor, other_mean: Tensor, other_var: Tensor) -> Tensor:
    """KL(N(mean, var) || N(other_mean, other_var)), elementwise.

    BackdoorBench's port does not halve the logarithm.
    """
    tiny = torch.finfo(var.dtype).tiny
    var, other_var = var.clamp_min(tiny), other_var.clamp_min(tiny)
    spread = (var + (mean - other_mean).square()) / other_var
    return ((other_var / var).log() + spread - 1) / 2
