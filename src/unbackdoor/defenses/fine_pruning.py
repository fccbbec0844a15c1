"""Fine-pruning: prune what clean images leave asleep, then fine-tune."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ..core.errors import ModelError
from ..core.images import Images, to_float
from ..core.modules import in_mode
from ..core.run import Run
from ..network.channels import feature_maps, silence_
from ..network.layers import Layer, find_layers
from ..network.norms import deepest_cut
from .base.defense import Repair, Tuning


class FinePruning(Tuning):
    """Prunes the channels of the last convolution that clean images activate least; fine-tunes.

    The activation of a channel is the mean of its rectified map behind its norm (of the
    convolution's own output where no norm follows) over the clean images `[n, c, h, w]`. The
    quietest go, a 32nd of the layer at a time, until the accuracy on clean images held out from
    the ranking would fall by more than `cost`. They stay silent through the fine-tuning.
    """

    paper: ClassVar[str] = (
        "Liu, Dolan-Gavitt, Garg: Fine-Pruning: Defending Against Backdooring Attacks on Deep "
        "Neural Networks, RAID 2018, arXiv 1805.12185"
    )
    limits: ClassVar[str] = (
        "an attacker who knows of it keeps the backdoor in channels that clean images use; "
        "published ASR is 79 % for label-consistent and 68 % for TrojanNN; the last convolution of "
        "a transformer is its first layer"
    )

    cost: float = Field(
        0.1, ge=0, le=1, description="largest drop of held-out accuracy that pruning may cause"
    )

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model` without its sleeping channels, fine-tuned."""
        ranking, held = self.divided(clean, run, "share")
        layer = self._last_convolution(model, clean)
        activation = activations(model, layer, ranking, run)
        quietest_first = activation.argsort(stable=True)

        def quietest(share: float) -> dict[str, Tensor]:
            mask = torch.zeros(layer.channels, dtype=torch.bool)
            mask[quietest_first[: int(share * layer.channels)]] = True
            return {layer.name: mask}

        share = deepest_cut(
            model,
            lambda trial, cut: silence_(trial, [layer], quietest(cut)),
            (step / 32 for step in range(1, 32)),
            self.cost,
            held,
            run,
        )
        mask = quietest(share)
        silence_(model, [layer], mask)
        self.tune(model, clean, run, after_step=lambda tuned: silence_(tuned, [layer], mask))
        return Repair(model, mask, {layer.name: activation}, {"share": share})

    def check(self, model: nn.Module, clean: Images) -> None:
        """Refuses a network without convolutions."""
        super().check(model, clean)
        self._last_convolution(model, clean)

    def _last_convolution(self, model: nn.Module, clean: Images) -> Layer:
        for layer in reversed(find_layers(model, to_float(clean.pixels[:2]))):
            if not isinstance(model.get_submodule(layer.name), nn.Linear):
                return layer
        raise ModelError(f"{self.name()} needs a convolution; {type(model).__name__} has none")


@torch.no_grad()
def activations(model: nn.Module, layer: Layer, clean: Images, run: Run) -> Tensor:
    """The mean rectified output float32 `[channels]` of `layer`, behind its norm, in eval mode."""
    spot = Layer(layer.norm or layer.name, None, layer.channels)
    total = torch.zeros(layer.channels)
    with in_mode(model, train=False), feature_maps(model, [spot]) as maps:
        for x, _ in clean.batches(256):
            model(x.to(run.device))
            quiet = maps[spot.name].float().relu()
            total += quiet.flatten(2).mean(2).sum(0).cpu()
    return total / len(clean)
