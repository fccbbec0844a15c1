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
from ..core.method import source
from ..core.modules import called, frozen, in_mode
from ..core.run import Run
from ..network.attention import cuts_patches
from ..network.inserts import Bound, attach_
from ..network.layers import Layer, find_layers
from ..network.moments import moments
from ..training.fit import constant, fit
from .base.defense import Augmented, Repair
from .base.needs import Need


class UNIT(Augmented):
    """Clips every channel at a learned upper bound; the weights do not change.

    A bound hangs behind every norm over channels. In a network without such norms, and in a vision
    transformer, it hangs behind every convolution and the hidden units of every MLP block. It
    starts at the mean of the rectified activation on the clean images plus `spread` standard
    deviations. The objective is cross-entropy plus a price times the sum over layers of the mean
    bound. The price doubles after `patience` batches in a row whose accuracy is within `cost` of
    the model's own, and falls by 2^`fall` after as many others. The result is the tightest state,
    of the start and the end of each epoch, whose accuracy on held-out clean images (on all, where
    they are too few to hold any out) is within `cost`. Only the upper side is cut: what
    follows is taken to rectify.

    Start, objective, price and tolerance follow the authors' published implementation. It bounds
    what rectifiers put out, behind shortcuts, too, which the bounds here do not see in networks
    that add the shortcut after the last norm (ResNet). It bounds every position of a map by itself,
    takes 300 steps of all images at once, which a processor has no time for, and judges every step
    by the held-out images. Here a bound is one for a channel and learns, as a share of its start,
    from batches. The repaired model holds the bounds as extra entries of its state dict
    (`inserts`).
    """

    paper: ClassVar[str] = (
        "Cheng, Shen, Zhang, Tao, An, Guo, Ma, Zhang: UNIT: Backdoor Mitigation via Automated "
        "Neural Distribution Tightening, ECCV 2024, arXiv 2407.11372"
    )
    limits: ClassVar[str] = (
        "a trigger that moves many channels a little stays below every bound; the repaired model "
        "has extra layers, so only unbackdoor reads its file"
    )
    needs: ClassVar[frozenset[Need]] = frozenset({"labels", "training"})

    epochs: int = Field(
        20,
        ge=0,
        description="epochs that train the bounds",
        json_schema_extra=source("ours: 20, some 300 steps of 2,000 images; the authors take 300"),
    )
    lr: float = Field(
        0.003,
        gt=0,
        description="learning rate of Adam on the shares (constant)",
        json_schema_extra=source("ours: 0.003 of the start a step, where the authors take 0.001"),
    )
    batch: int = Field(
        128,
        ge=2,
        description="batch size",
        json_schema_extra=source("ours: a step of all images takes a processor too long"),
    )
    price: float = Field(
        1e-3,
        gt=0,
        description="price of the bounds' size at the start",
        json_schema_extra=source("authors' configuration: 0.001"),
    )
    patience: int = Field(
        5,
        ge=1,
        description="batches in a row before the price changes",
        json_schema_extra=source("authors' configuration: 5"),
    )
    fall: float = Field(
        1.5,
        gt=0,
        description="the price falls by 2 to this power",
        json_schema_extra=source("authors' configuration: 1.5"),
    )
    betas: tuple[float, float] = Field(
        (0.5, 0.9),
        description="betas of Adam",
        json_schema_extra=source("authors' configuration: 0.5, 0.9"),
    )
    spread: float = Field(
        4.0,
        gt=0,
        description="bound at the start: standard deviations above the mean",
        json_schema_extra=source("authors' configuration: 4"),
    )
    cost: float = Field(
        0.03,
        ge=0,
        le=1,
        description="largest drop of accuracy that the bounds may cause",
        json_schema_extra=source("authors' configuration: 0.03"),
    )

    def check(self, model: nn.Module, clean: Images) -> None:
        """Refuses a network without norms over channels, convolutions and MLP blocks."""
        super().check(model, clean)
        self._spots(model, clean)

    def work(self, images: int, classes: int) -> float | None:
        """Epochs of all images."""
        return float(self.epochs * images)

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model` with a bound behind every norm."""
        learning, held = self.with_judges(clean, run, "bounds")
        own = accuracy(model, learning, run).value
        floor = accuracy(model, held, run).value - self.cost
        spots = self._spots(model, clean)
        most = usual(model, spots, self.spread, learning, run)
        bounds = {
            spot.name: attach_(model, spot.name, Bound(spot.channels, most[spot.name]))
            for spot in spots
        }
        shares: list[Tensor] = [bound.share for bound in bounds.values()]
        price = Price(self.price, self.patience, self.fall)
        best, tightest = copy.deepcopy(model.state_dict()), math.inf

        def size() -> Tensor:
            return torch.stack([(b.share * b.most).mean() for b in bounds.values()]).sum()

        def loss(bounded: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            with in_mode(bounded, train=False):
                logits = bounded(x).float()
            right = (logits.argmax(1) == y).float().mean()
            total = F.cross_entropy(logits, y) + price.now * size()
            price.follow(bool(right >= own - self.cost))
            return total

        def keep(bounded: nn.Module) -> bool:
            nonlocal tightest
            now = float(size().detach())
            if now < tightest and accuracy(bounded, held, run).value >= floor:
                best.update(copy.deepcopy(bounded.state_dict()))
                tightest = now
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
                    parameters, lr=self.lr, betas=self.betas
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
        """The norms over channels of feature maps, or else the convolutions and hidden units."""
        x = to_float(clean.pixels[:2])
        patches, there = cuts_patches(model, x), set(called(model, x))
        norms = [
            Layer(name, None, module.weight.numel())
            for name, module in model.named_modules()
            if name in there
            and isinstance(module, (nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm))
            and isinstance(module.weight, Tensor)
        ]
        if norms and not patches:
            return norms
        layers = find_layers(model, x)
        hidden = any(isinstance(model.get_submodule(layer.name), nn.Linear) for layer in layers)
        if patches and not hidden:
            raise ModelError(
                f"{self.name()} finds no MLP block behind the patches of {type(model).__name__}"
            )
        return [Layer(layer.name, None, layer.channels) for layer in layers]


class Price:
    """A price that doubles after `patience` good steps in a row and falls after as many bad ones.

    It falls by 2^`fall`. Below its `start` it returns there as soon as so many good ones come.
    """

    def __init__(self, start: float, patience: int, fall: float) -> None:
        self.now = self.start = start
        self.patience, self.fall, self.streak = patience, fall, 0

    def follow(self, good: bool) -> None:
        """Counts a step."""
        self.streak = max(1, self.streak + 1) if good else min(-1, self.streak - 1)
        if abs(self.streak) == self.patience:
            self.now = max(2 * self.now, self.start) if good else self.now / 2**self.fall
            self.streak = 0


def usual(
    model: nn.Module, spots: list[Layer], spread: float, clean: Images, run: Run
) -> dict[str, Tensor]:
    """Mean plus `spread` standard deviations `[channels]` of the rectified outputs of `spots`.

    Over the `clean` images and all positions, in eval mode.
    """
    found = moments(model, spots, clean, run, torch.relu)
    return {name: one.mean + spread * one.var.sqrt() for name, one in found.items()}
