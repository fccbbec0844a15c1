"""UNIT: bounds on the activations of every channel, as tight as clean images allow."""

from __future__ import annotations

import copy
import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import ModelError
from ..core.images import Images, to_float
from ..core.measure import accuracy
from ..core.modules import frozen, in_mode
from ..core.run import Run
from ..network.channels import feature_maps
from ..network.inserts import Bound, attach_
from ..network.layers import Layer, find_layers
from ..training.fit import constant, fit
from .base.defense import Augmented, Repair


class UNIT(Augmented):
    """Clips every channel at a learned upper bound; the weights do not change.

    A bound hangs behind every norm over channels (behind every convolution of a network without
    norms). It starts at the mean of the rectified activation on the clean images plus `spread`
    standard deviations, and learns the share of it that it keeps: cross-entropy plus the mean share
    times a weight, which grows by half after every batch whose accuracy is within `cost` of the
    model's own and falls by half after others, between 1e-4 and 1e4.
    The result is the tightest state, of the start and the end of each epoch, whose accuracy on
    held-out clean images (on all, where they are too few to hold any out) is within `cost`. Only
    the upper side is cut: what follows is taken to rectify.

    Start, objective, tolerance and which state is kept follow the authors' published
    implementation, which bounds every position of a map by itself, takes 300 steps of all images at
    a rate of 0.001, and doubles its weight after five good steps. The repaired model holds the
    bounds as extra entries of its state dict (`inserts`).
    """

    paper: ClassVar[str] = (
        "Cheng, Shen, Zhang, Tao, An, Guo, Ma, Zhang: UNIT: Backdoor Mitigation via Automated "
        "Neural Distribution Tightening, ECCV 2024, arXiv 2407.11372"
    )
    limits: ClassVar[str] = (
        "a trigger that moves many channels a little stays below every bound; the repaired model "
        "has extra layers, so only unbackdoor reads its file"
    )

    epochs: int = Field(20, ge=0, description="epochs that train the bounds")
    lr: float = Field(0.003, gt=0, description="learning rate of Adam (constant)")
    batch: int = Field(128, ge=2, description="batch size")
    weight: float = Field(0.1, gt=0, description="weight of the bounds' size at the start")
    spread: float = Field(
        4.0, gt=0, description="bound at the start: standard deviations above the mean"
    )
    cost: float = Field(
        0.03, ge=0, le=1, description="largest drop of accuracy that the bounds may cause"
    )

    def check(self, model: nn.Module, clean: Images) -> None:
        """Refuses a network without norms over channels and without convolutions."""
        super().check(model, clean)
        self._spots(model, clean)

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model` with a bound behind every norm."""
        learning, held = self.divided(clean, run, "bounds")
        held = held if len(held) else learning
        own = accuracy(model, learning, run).value
        floor = accuracy(model, held, run).value - self.cost
        spots = self._spots(model, clean)
        most = usual(model, spots, self.spread, learning, run)
        bounds = {
            spot.name: attach_(model, spot.name, Bound(spot.channels, most[spot.name]))
            for spot in spots
        }
        shares: list[Tensor] = [bound.share for bound in bounds.values()]
        weight = self.weight
        best, tightest = copy.deepcopy(model.state_dict()), math.inf

        def loss(bounded: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            nonlocal weight
            with in_mode(bounded, train=False):
                logits = bounded(x).float()
            right = (logits.argmax(1) == y).float().mean()
            total = F.cross_entropy(logits, y) + weight * torch.cat(shares).mean()
            factor = 1.5 if right >= own - self.cost else 0.5
            weight = min(max(weight * factor, 1e-4), 1e4)
            return total

        def keep(bounded: nn.Module) -> bool:
            nonlocal tightest
            size = float(torch.cat(shares).detach().mean())
            if size < tightest and accuracy(bounded, held, run).value >= floor:
                best.update(copy.deepcopy(bounded.state_dict()))
                tightest = size
            return False

        keep(model)
        with frozen(model):
            for share in shares:
                share.requires_grad_()
            fit(
                model,
                learning,
                run,
                epochs=self.epochs,
                lr=self.lr,
                batch=self.batch,
                flip=self.flip,
                optimizer=lambda parameters: torch.optim.Adam(
                    parameters, lr=self.lr, betas=(0.5, 0.9)
                ),
                schedule=constant,
                objective=loss,
                after_step=lambda _: [share.data.clamp_(min=0) for share in shares],
                until=keep,
                stage="bounds",
            )
        model.load_state_dict(best)
        scores = {name: bound.share.detach().cpu() for name, bound in bounds.items()}
        return Repair(model, {}, scores)

    def _spots(self, model: nn.Module, clean: Images) -> list[Layer]:
        """The norms over channels of feature maps, or else the convolutions."""
        x = to_float(clean.pixels[:2])
        norms = [
            Layer(name, None, module.weight.numel())
            for name, module in model.named_modules()
            if isinstance(module, (nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm))
            and isinstance(module.weight, Tensor)
        ]
        convolutions = [
            Layer(layer.name, None, layer.channels)
            for layer in (find_layers(model, x) if not norms else ())
            if not isinstance(model.get_submodule(layer.name), nn.Linear)
        ]
        if not norms and not convolutions:
            raise ModelError(
                f"{self.name()} needs norms or convolutions; {type(model).__name__} has none"
            )
        return norms or convolutions


@torch.no_grad()
def usual(
    model: nn.Module, spots: list[Layer], spread: float, clean: Images, run: Run
) -> dict[str, Tensor]:
    """Mean plus `spread` standard deviations `[channels]` of the rectified outputs of `spots`.

    Over the `clean` images and all positions, in eval mode.
    """
    sums, squares = ({spot.name: torch.zeros(()) for spot in spots} for _ in range(2))
    count = dict.fromkeys(sums, 0)
    with in_mode(model, train=False), feature_maps(model, spots) as maps:
        for x, _ in clean.batches(256):
            model(x.to(run.device))
            for name, y in maps.items():
                flat = y.float().relu().movedim(1, 0).flatten(1).double()
                sums[name] = sums[name].to(flat) + flat.sum(1)
                squares[name] = squares[name].to(flat) + flat.square().sum(1)
                count[name] += flat.shape[1]
    limits = {}
    for name in sums:
        mean = sums[name] / count[name]
        deviation = (squares[name] / count[name] - mean.square()).clamp_min(0).sqrt()
        limits[name] = (mean + spread * deviation).float()
    return limits
