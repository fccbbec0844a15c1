"""BTI-DBF (U): a generator that leaves benign features alone is the trigger; it is unlearned."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.images import Images, to_float
from ..core.method import source
from ..core.modules import frozen, in_mode
from ..core.run import Run
from ..network.head import FeatureMask, Head, along, answers_of, features_of, find_head, width
from ..training.fit import Objective, constant, fit
from ..training.unet import UNet
from .base.defense import Repair
from .base.inverting import Inverting, Trigger
from .base.needs import Need

STD = 0.2
"""A change of pixels in [0, 1] is so many times that in the authors' units, CIFAR-10's std."""


class BTIDBF(Inverting):
    """Learns a trigger from the features that clean images do not need, and unlearns it.

    1. A mask m in [0, 1] over the features f that the classifier sees is learned so that m f gives
       the right class and (1 - m) f does not: m marks the benign features.
    2. A generator G (a U-Net, first taught to change nothing) learns to move the other features as
       far as it can, less `benign` times the benign ones. Where the mean square change of an image
       is above `most_change`, or that of the benign features above `most_benign`, it lowers these.
    3. The most common answer to G's images is the target. The model is tuned by Adam with a `share`
       of each batch through G, on cross-entropy with the true labels plus the mean square distance
       of all features from those of the images as they were.

    That is repeated for `rounds`; from the second on G also learns to be answered with the target.
    Images `[n, c, h, w]` are in [0, 1]. The authors bound changes by 0.3 in CIFAR-10's normalised
    units (std 0.2); here the bound is in pixels, and what is lowered is their mean square change in
    those units. Features are what the last layer sees; a copy of the authors' method takes maps
    before pooling. Raises `ModelError` where no layer puts out the logits.
    """

    paper: ClassVar[str] = (
        "Xu, Huang, Li, Qin, Ren: Towards Reliable and Efficient Backdoor Trigger Inversion via "
        "Decoupling Benign Features, ICLR 2024"
    )
    limits: ClassVar[str] = (
        "450 epochs, 200 of them of a second network: hours without a GPU; retraining on a few "
        "triggered images brings the backdoor back (Min et al., arXiv 2410.09838)"
    )
    needs: ClassVar[frozenset[Need]] = frozenset({"labels", "training"})

    rounds: int = Field(
        5,
        ge=1,
        description="rounds of inversion and unlearning",
        json_schema_extra=source("authors' configuration: 5"),
    )
    epochs: int = Field(
        30,
        ge=0,
        description="epochs of unlearning a round",
        json_schema_extra=source("authors' configuration: 30"),
    )
    lr: float = Field(
        1e-4,
        gt=0,
        description="learning rate of Adam for the model (constant)",
        json_schema_extra=source("authors' configuration: 1e-4"),
    )
    batch: int = Field(
        128,
        ge=2,
        description="batch size",
        json_schema_extra=source("authors' configuration: 128"),
    )
    share: float = Field(
        0.1,
        gt=0,
        le=1,
        description="share of a batch that goes through the generator",
        json_schema_extra=source("authors' configuration: 0.1 and one more; PAM's authors: 0.2"),
    )
    mask_epochs: int = Field(
        20,
        ge=0,
        description="epochs of the mask a round",
        json_schema_extra=source("authors' configuration: 20"),
    )
    mask_lr: float = Field(
        0.01,
        gt=0,
        description="learning rate of Adam for the mask",
        json_schema_extra=source("authors' configuration: 0.01"),
    )
    identity_epochs: int = Field(
        50,
        ge=0,
        description="epochs that teach the generator to change nothing",
        json_schema_extra=source("authors' configuration: 50"),
    )
    trigger_epochs: int = Field(
        30,
        ge=0,
        description="epochs of the generator a round",
        json_schema_extra=source("authors' configuration: 30"),
    )
    generator_lr: float = Field(
        1e-3,
        gt=0,
        description="learning rate of Adam for the generator",
        json_schema_extra=source("authors' configuration: 1e-3"),
    )
    generator_width: int = Field(
        32,
        ge=1,
        description="maps of the generator at full size",
        json_schema_extra=source("authors' configuration: 32"),
    )
    most_change: float = Field(
        0.012,
        gt=0,
        description="mean square change of an image above which it is lowered",
        json_schema_extra=source("authors' configuration: 0.3, normalised by their std of 0.2"),
    )
    most_benign: float = Field(
        3.0,
        gt=0,
        description="mean square change of benign features above which it is lowered",
        json_schema_extra=source("authors' configuration: 3"),
    )
    benign: float = Field(
        0.01,
        ge=0,
        description="weight of the benign features' change beside that of the others",
        json_schema_extra=source("authors' configuration: 0.01"),
    )
    noise: float = Field(
        0.006,
        ge=0,
        description="standard deviation of the noise on images when the target is named",
        json_schema_extra=source("authors' configuration: 0.03, normalised by their std of 0.2"),
    )

    def check(self, model: nn.Module, clean: Images) -> None:
        """Refuses a network whose logits no layer puts out."""
        super().check(model, clean)
        find_head(model, to_float(clean.pixels[:2]), self.name())

    def work(self, images: int, classes: int) -> float | None:
        """What `search` takes, but for the start in each round, and unlearning twice an image."""
        each = self.mask_epochs / 3 + 2 * self.trigger_epochs + 2 * self.epochs
        return images * (self.identity_epochs + self.rounds * each)

    def search(self, images: int, classes: int) -> float:
        """The mask, which takes no gradient of the model, and the generator, as dear as a model."""
        return images * (self.identity_epochs + self.mask_epochs / 3 + 2 * self.trigger_epochs)

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model` without what its generator found."""
        generator, target = self._identity(clean, run), None
        for number in range(1, self.rounds + 1):
            mask = self._mask(model, clean, run, number)
            self._invert(generator, model, mask, target, clean, run, number)
            if target is None:
                target = self._target(generator, model, clean, run)
            self._unlearn(generator, model, clean, run, number)
        return Repair(model, notes={"target": float(target or 0)})

    def inverted(self, model: nn.Module, clean: Images, run: Run) -> Trigger:
        """The generator of the first round, in eval mode."""
        model, generator = copy.deepcopy(model), self._identity(clean, run)
        mask = self._mask(model, clean, run, 1)
        self._invert(generator, model, mask, None, clean, run, 1)
        return generator.eval().requires_grad_(False)

    def _identity(self, clean: Images, run: Run) -> UNet:
        with run.isolated("generator"):
            generator = UNet(clean.shape[0], self.generator_width).to(run.device)

        def loss(net: nn.Module, x: Tensor, _: Tensor) -> Tensor:
            return F.mse_loss(net(x), x)

        self._learn(generator, loss, self.identity_epochs, self.generator_lr, clean, run, "start")
        return generator

    def _mask(self, model: nn.Module, clean: Images, run: Run, number: int) -> Tensor:
        """The share `[features]` of each feature that is benign."""
        head = self._head(model, clean)
        rng = run.rng(f"mask/{number}")
        mask = FeatureMask(torch.randn(width(head), generator=rng).to(run.device))

        def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            with torch.no_grad():
                features, _ = features_of(model, head, x)
            benign = net(features)
            right = F.cross_entropy(answers_of(head, benign).float(), y)
            return right - F.cross_entropy(answers_of(head, features - benign).float(), y)

        with in_mode(model, train=False), frozen(model):
            told = (self.mask_epochs, self.mask_lr, clean, run, f"mask {number}")
            self._learn(mask, loss, *told)
        return mask.share.detach()

    def _invert(
        self,
        generator: UNet,
        model: nn.Module,
        mask: Tensor,
        target: int | None,
        clean: Images,
        run: Run,
        number: int,
    ) -> None:
        """Teaches the generator what moves the features that are not benign."""
        head = self._head(model, clean)

        def loss(net: nn.Module, x: Tensor, _: Tensor) -> Tensor:
            made = net(x)
            with torch.no_grad():
                plain, _unused = features_of(model, head, x)
            found, told = features_of(model, head, made)
            away = (found - plain).float()
            own = along(mask, away)
            benign, other = (own * away).square().mean(), ((1 - own) * away).square().mean()
            change = F.mse_loss(made, x)
            if change > self.most_change or benign > self.most_benign:
                total = change / STD**2 + benign * (benign > self.most_benign)
            else:
                total = self.benign * benign - other
            if target is not None:
                goals = torch.full((len(x),), target, device=x.device)
                total = total + F.cross_entropy(told.float(), goals)
            return total

        with in_mode(model, train=False), frozen(model):
            told = (self.trigger_epochs, self.generator_lr, clean, run, f"generator {number}")
            self._learn(generator, loss, *told)

    @torch.no_grad()
    def _target(self, generator: UNet, model: nn.Module, clean: Images, run: Run) -> int:
        """The most common answer to the generator's images."""
        rng = run.rng("target")
        counts = torch.zeros(len(clean.classes))
        with in_mode(model, train=False), in_mode(generator, train=False):
            for x, _ in clean.batches(256):
                noisy = x + self.noise * torch.randn(x.shape, generator=rng)
                told = model(generator(noisy.to(run.device))).argmax(1).cpu()
                counts += torch.bincount(told, minlength=len(counts))
        return int(counts.argmax())

    def _unlearn(
        self, generator: UNet, model: nn.Module, clean: Images, run: Run, number: int
    ) -> None:
        head = self._head(model, clean)

        def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            moved = max(1, round(self.share * len(x)))
            with torch.no_grad(), in_mode(generator, train=False):
                some = torch.cat([generator(x[:moved]).to(x), x[moved:]])
            plain, _ = features_of(net, head, x)
            found, told = features_of(net, head, some)
            return F.cross_entropy(told.float(), y) + F.mse_loss(found.float(), plain.float())

        told = (self.epochs, self.lr, clean, run, f"unlearning {number}")
        self._learn(model, loss, *told)

    def _learn(
        self,
        net: nn.Module,
        loss: Objective,
        epochs: int,
        lr: float,
        clean: Images,
        run: Run,
        stage: str,
    ) -> None:
        fit(
            net,
            clean,
            run,
            epochs=epochs,
            lr=lr,
            batch=self.batch,
            flip=self.flip,
            objective=loss,
            optimizer=lambda parameters: torch.optim.Adam(parameters, lr=lr),
            schedule=constant,
            stage=stage,
        )

    def _head(self, model: nn.Module, clean: Images) -> Head:
        return find_head(model, to_float(clean.pixels[:2]), self.name())[1]
