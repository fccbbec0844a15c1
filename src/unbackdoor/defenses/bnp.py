"""BNP: prunes the norm channels whose running statistics do not fit clean images."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..core.errors import ModelError
from ..core.images import Images, to_float
from ..core.modules import in_mode
from ..core.run import Run
from ..network.norms import find_norms, outliers, silence_norms_
from .base.defense import Defense, Repair


class BNP(Defense):
    """Prunes the batch norm channels whose running statistics differ from clean images' statistics.

    A batch norm's running statistics come from the poisoned training set. The score of a channel
    is the divergence KL(clean || running) of the two normal distributions, the clean one from one
    batch; channels above mean + `u` standard deviations of their layer go. The batch goes through
    in train mode, so that each norm is judged on its own and not by what norms before it remember;
    the authors' published implementation takes eval mode.
    Raises `ModelError` for a network without batch norms.
    """

    paper: ClassVar[str] = (
        "Zheng, Tang, Li, Liu: Pre-activation Distributions Expose Backdoor Neurons, NeurIPS 2022"
    )
    limits: ClassVar[str] = (
        "running statistics that were estimated anew on clean images, as after any fine-tuning, "
        "tell nothing; of its two methods EP is missing, which needs poisoned images"
    )

    u: float = Field(
        3.0, description="prune channels this many standard deviations above the layer's mean"
    )
    images: int = Field(500, ge=2, description="largest number of clean images used")

    def check(self, model: nn.Module, clean: Images) -> None:
        """Refuses a network without batch norms."""
        super().check(model, clean)
        self._norms(model, clean)

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model` without the channels whose statistics do not fit."""
        norms = self._norms(model, clean)
        batch = to_float(clean.sample(self.images, run.rng("batch")).pixels).to(run.device)
        refreshed = copy.deepcopy(model)
        for module in refreshed.modules():
            if isinstance(module, _BatchNorm):
                module.momentum = 1.0
        with in_mode(refreshed, train=True), run.isolated("batch"), torch.no_grad():
            refreshed(batch)
        scores = {
            norm: divergence(*_statistics(refreshed, norm), *_statistics(model, norm)).cpu()
            for norm in norms
        }
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


def _statistics(model: nn.Module, norm: str) -> tuple[Tensor, Tensor]:
    module = model.get_submodule(norm)
    assert isinstance(module.running_mean, Tensor) and isinstance(module.running_var, Tensor)
    return module.running_mean, module.running_var


def divergence(mean: Tensor, var: Tensor, other_mean: Tensor, other_var: Tensor) -> Tensor:
    """KL(N(mean, var) || N(other_mean, other_var)), elementwise."""
    tiny = torch.finfo(var.dtype).tiny
    var, other_var = var.clamp_min(tiny), other_var.clamp_min(tiny)
    spread = (var + (mean - other_mean).square()) / other_var
    return ((other_var / var).log() + spread - 1) / 2
