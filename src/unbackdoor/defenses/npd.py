"""NPD: a neural polarizer, one learned layer inside a frozen network."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import ModelError
from ..core.images import Images, to_float
from ..core.method import source
from ..core.modules import frozen, in_mode
from ..core.run import Run
from ..network.attention import refuse_patches
from ..network.inserts import Polish, attach_
from ..network.layers import find_layers
from ..network.moments import Moments
from ..training.adversarial import Ball, avoidance
from ..training.fit import constant, fit
from .base.defense import Defense, Repair
from .base.needs import Need


class NPD(Defense):
    """Learns a 1x1 convolution and a norm that filter the trigger inside the last block.

    All weights of the model stay as they are. The layer stands before the last convolution but one
    (`layer4.1.conv1` of a PreActResNet18, as in the paper): there the shortcut of the last block
    passes it by, so that clean features survive. For each image the class it is most easily taken
    for, after its own, is the target of an adversarial example in an L2 ball. The layer learns
    cross-entropy on clean images; on the examples, with weight `boost`, the answer to the clean
    image and -log(1 - p) of the strongest wrong class, and with weight `avoid` -log(1 - p) of the
    target.

    The convolution starts as the identity; the norm starts fresh, with a weight of 1 and a bias of
    0, and has, and keeps, the statistics of the clean images (the authors' published implementation
    warms them up for five epochs). Images are neither cropped nor mirrored. Examples take steps of
    the gradient's sign, and none where `enough` of a batch reached their target.

    Two things weaken it, by trials of 20 steps of 64 images on one BadNets victim (ACC 79, ASR 91):
    a layer behind that convolution, not before it, leaves 89 % where this leaves 62; a norm that
    starts as the identity, and not fresh, leaves 90. (With that start, steps along the gradient
    itself, not its sign, left 33.)
    The repaired model holds the layer as extra entries of its state dict (`inserts`).
    Raises `ModelError` for a network with fewer than two convolutions, and for a transformer.
    """

    paper: ClassVar[str] = (
        "Zhu, Wei, Zha, Wu: Neural Polarizer: A Lightweight and Effective Backdoor Defense via "
        "Purifying Poisoned Features, NeurIPS 2023, arXiv 2306.16697"
    )
    limits: ClassVar[str] = (
        "cannot remove a backdoor that passes the layer by, on the last shortcut; the repaired "
        "model has an extra layer, so only unbackdoor reads its file"
    )
    needs: ClassVar[frozenset[Need]] = frozenset({"labels", "training", "maps"})

    epochs: int = Field(
        50,
        ge=0,
        description="epochs of fine-tuning",
        json_schema_extra=source("authors' configuration: 50"),
    )
    batch: int = Field(
        128,
        ge=2,
        description="batch size",
        json_schema_extra=source("authors' configuration: 128"),
    )
    lr: float = Field(
        0.01,
        gt=0,
        description="learning rate of SGD (constant)",
        json_schema_extra=source("authors' configuration: 0.01"),
    )
    momentum: float = Field(
        0.9,
        ge=0,
        lt=1,
        description="momentum of SGD",
        json_schema_extra=source("authors' configuration: 0.9"),
    )
    weight_decay: float = Field(
        5e-4,
        ge=0,
        description="weight decay of SGD",
        json_schema_extra=source("authors' configuration: 5e-4"),
    )
    radius: float = Field(
        3.0,
        gt=0,
        description="L2 radius of the adversarial examples, pixels in [0, 1]",
        json_schema_extra=source("authors' configuration: 3"),
    )
    steps: int = Field(
        2,
        ge=1,
        description="largest number of steps that find the adversarial examples",
        json_schema_extra=source("authors' configuration: 2"),
    )
    step: float = Field(
        0.1,
        gt=0,
        le=1,
        description="size of such a step for every pixel (sign of the gradient)",
        json_schema_extra=source("authors' configuration: 0.1"),
    )
    enough: float = Field(
        0.6,
        gt=0,
        le=1,
        description="no further step where this share of a batch reached its target",
        json_schema_extra=source("authors' configuration: 0.6"),
    )
    avoid: float = Field(
        0.4,
        ge=0,
        description="weight of the loss that avoids the target class",
        json_schema_extra=source("authors' configuration: 0.4"),
    )
    boost: float = Field(
        0.4,
        ge=0,
        description="weight of the boosted cross-entropy",
        json_schema_extra=source("authors' configuration: 0.4"),
    )

    def check(self, model: nn.Module, clean: Images) -> None:
        """Refuses a network that has no place for the layer."""
        super().check(model, clean)
        refuse_patches(model, to_float(clean.pixels[:2]), self.name())
        self._place(model, clean)

    def work(self, images: int, classes: int) -> float | None:
        """Each image and its example, and the steps that find this."""
        return self.epochs * images * (2 + self.steps + 1 / 3)

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model` with a layer that filters, inside its last block."""
        place = self._place(model, clean)
        usual = _taken(model, place, clean, run)
        layer = attach_(model, place, Polish(len(usual.mean)))
        layer.norm.running_mean = usual.mean.to(run.device)
        layer.norm.running_var = usual.var.to(run.device)

        def loss(polished: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            with in_mode(polished, train=False):
                moved, targets = self.examples(polished, x, y)
                natural, fooled = polished(torch.cat([x, moved])).float().chunk(2)
            answers = natural.detach().argmax(1)
            boosted = F.cross_entropy(fooled, answers) + avoidance(fooled, _rival(fooled, y)).mean()
            total: Tensor = F.cross_entropy(natural, y) + self.boost * boosted
            return total + self.avoid * avoidance(fooled, targets).mean()

        with frozen(model):
            layer.requires_grad_(True)
            fit(
                *(model, clean, run),
                epochs=self.epochs,
                lr=self.lr,
                batch=self.batch,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
                objective=loss,
                crop=False,
                schedule=constant,
                stage="polarizer",
            )
        return Repair(model)

    def examples(self, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """(the images moved towards their rival class, that class `[n]`)."""
        ball, moved = Ball(self.radius, "2"), x
        with frozen(model):
            with torch.no_grad():
                targets = _rival(model(x).float(), y)
            for _ in range(self.steps):
                moved = moved.detach().requires_grad_()
                with torch.enable_grad():
                    told = model(moved).float()
                    (slope,) = torch.autograd.grad(F.cross_entropy(told, targets), moved)
                if float((told.argmax(1) == targets).float().mean()) > self.enough:
                    break
                away = ball.clipped(moved.detach() - x - self.step * slope.sign())
                moved = (x + away).clamp(0, 1)
        return moved.detach(), targets

    def _place(self, model: nn.Module, clean: Images) -> str:
        """The path of the last convolution but one before the classifier."""
        layers = find_layers(model, to_float(clean.pixels[:2]))
        found = [
            layer.name for layer in layers if isinstance(model.get_submodule(layer.name), nn.Conv2d)
        ]
        if len(found) < 2:
            raise ModelError(
                f"{self.name()} needs two convolutions; {type(model).__name__} has {len(found)}"
            )
        return found[-2]


@torch.no_grad()
def _taken(model: nn.Module, place: str, clean: Images, run: Run) -> Moments:
    """The moments of what the convolution at `place` takes of the clean images, in eval mode."""
    found = Moments()
    handle = model.get_submodule(place).register_forward_pre_hook(
        lambda _, args: found.add(args[0].float())
    )
    try:
        with in_mode(model, train=False):
            for x, _ in clean.batches(256):
                model(x.to(run.device))
    finally:
        handle.remove()
    return found


def _rival(logits: Tensor, y: Tensor) -> Tensor:
    """The most likely class `[n]` but for the own one."""
    return logits.scatter(1, y.unsqueeze(1), -torch.inf).argmax(1)
