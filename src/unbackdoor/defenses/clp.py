"""CLP: channel Lipschitz pruning, which needs no data."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..core.errors import ModelError
from ..core.images import Images, to_float
from ..core.method import source
from ..core.run import Run
from ..network.channels import silence_
from ..network.layers import Layer, find_layers
from ..network.norms import outliers
from .base.defense import Defense, Repair
from .base.needs import Need


class CLP(Defense):
    """Prunes the channels with an unusually large Lipschitz constant for their layer.

    The bound of a channel is the largest singular value of its kernel as a matrix
    `[inputs, positions]`, times |weight| / sqrt(variance) of the batch norm that the convolution's
    output really flows into. Channels above mean + `u` standard deviations of their layer go.
    Convolutions that feed no batch norm are left as they are; the clean images only judge.
    Raises `ModelError` for a network without a batch norm behind a convolution.
    """

    paper: ClassVar[str] = (
        "Zheng, Tang, Li, Liu: Data-Free Backdoor Removal Based on Channel Lipschitzness, "
        "ECCV 2022, arXiv 2208.03111"
    )
    limits: ClassVar[str] = (
        "very sensitive to u, which nothing here tunes; sees no channel that batch norm does not "
        "follow, which is half of a pre-activation network"
    )
    needs: ClassVar[frozenset[Need]] = frozenset({"norms", "batch_norms"})

    u: float = Field(
        3.0,
        description="prune channels this many standard deviations above the layer's mean",
        json_schema_extra=source("authors' configuration: 3"),
    )

    def check(self, model: nn.Module, clean: Images) -> None:
        """Refuses a network without a batch norm behind a convolution."""
        super().check(model, clean)
        self._normed(model, clean)

    def work(self, images: int, classes: int) -> float | None:
        """No image."""
        return 0.0

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model` with its most amplifying channels silenced."""
        layers = self._normed(model, clean)
        bounds = {layer.name: lipschitz(model, layer).cpu() for layer in layers}
        mask = {name: outliers(bound, self.u) for name, bound in bounds.items()}
        silence_(model, layers, mask)
        return Repair(model, mask, bounds)

    def _normed(self, model: nn.Module, clean: Images) -> list[Layer]:
        layers = [
            layer
            for layer in find_layers(model, to_float(clean.pixels[:2]))
            if layer.norm and _has_variance(model.get_submodule(layer.norm))
        ]
        if not layers:
            raise ModelError(
                f"{self.name()} needs a convolution that feeds a batch norm with running "
                f"statistics; {type(model).__name__} has none"
            )
        return layers


def _has_variance(norm: nn.Module) -> bool:
    return isinstance(norm, _BatchNorm) and norm.running_var is not None


@torch.no_grad()
def lipschitz(model: nn.Module, layer: Layer) -> Tensor:
    """The bound float32 `[channels]` of each channel of `layer` and its batch norm."""
    kernel = model.get_submodule(layer.name).weight
    norm = model.get_submodule(layer.norm or "")
    assert isinstance(kernel, Tensor) and isinstance(norm, _BatchNorm)
    assert norm.running_var is not None
    largest: Tensor = torch.linalg.matrix_norm(kernel.float().flatten(2), ord=2)
    weight: Tensor = norm.weight.abs() if norm.affine else torch.ones_like(largest)
    return largest * weight / (norm.running_var + norm.eps).sqrt()
