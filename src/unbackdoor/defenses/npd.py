"""NPD: a neural polarizer, one learned layer inside a frozen network."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.images import Images, to_float
from ..core.modules import frozen, in_mode
from ..core.run import Run
from ..network.attention import stage_maps, stages
from ..network.inserts import Polish, attach_
from ..training.adversarial import Ball, avoidance, climbed
from .base.defense import Repair, Tuning


class NPD(Tuning):
    """Learns a 1x1 convolution and a norm that filter the trigger before the last stage.

    All weights of the model stay as they are. For each image the class it is most easily taken
    for, after its own, is the target of an adversarial example in an L2 ball; the layer learns
    cross-entropy on the clean images, plus `avoid` times -log(1 - p) of the target on the example,
    plus `boost` times the boosted cross-entropy -log p - log(1 - largest other p) there.

    The layer starts as the identity, the norm with the statistics of the clean images (the paper:
    a fresh norm). Where stages end is found by the size of the maps (`attention.stages`). The
    repaired model holds the layer as extra entries of its state dict (`inserts`).

    Weights, reach, steps, rate and batch are those of the authors' published implementation. Its
    layer stands inside the last block, so that a shortcut passes it by; it takes steps of the
    gradient's sign, and keeps the norm's statistics after five epochs of warming up.
    Raises `ModelError` for a network without feature maps.
    """

    paper: ClassVar[str] = (
        "Zhu, Wei, Zha, Wu: Neural Polarizer: A Lightweight and Effective Backdoor Defense via "
        "Purifying Poisoned Features, NeurIPS 2023, arXiv 2306.16697"
    )
    limits: ClassVar[str] = (
        "cannot remove a backdoor that acts in the last stage alone; the repaired model has an "
        "extra layer, so only unbackdoor reads its file"
    )

    epochs: int = Field(50, ge=0, description="epochs of fine-tuning")
    batch: int = Field(128, ge=2, description="batch size")
    radius: float = Field(
        3.0, gt=0, description="L2 radius of the adversarial examples, pixels in [0, 1]"
    )
    steps: int = Field(2, ge=1, description="steps that find the adversarial examples")
    avoid: float = Field(0.4, ge=0, description="weight of the loss that avoids the target class")
    boost: float = Field(0.4, ge=0, description="weight of the boosted cross-entropy")

    def check(self, model: nn.Module, clean: Images) -> None:
        """Refuses a network without feature maps."""
        super().check(model, clean)
        stages(model, to_float(clean.pixels[:2]), self.name())

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model` with a layer that filters, before its last stage."""
        ends = stages(model, to_float(clean.pixels[:2]), self.name())
        place = ends[-2:][0]
        mean, var = _statistics(model, place, clean, run)
        layer = attach_(model, place, Polish(len(mean)))
        layer.start_at_(mean, var)

        def loss(polished: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            with in_mode(polished, train=False):
                moved, targets = self.examples(polished, x, y)
                layer.train()
                logits = polished(torch.cat([x, moved])).float()
            natural, fooled = logits.chunk(2)
            boosted = F.cross_entropy(fooled, y) + avoidance(fooled, _rival(fooled, y)).mean()
            total: Tensor = F.cross_entropy(natural, y) + self.boost * boosted
            return total + self.avoid * avoidance(fooled, targets).mean()

        with frozen(model):
            layer.requires_grad_(True)
            self.tune(model, clean, run, objective=loss, stage="polarizer")
        return Repair(model, {}, {}, {"behind_stage": float(ends.index(place) + 1)})

    def examples(self, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """(the images moved towards their rival class, that class `[n]`)."""
        with frozen(model), torch.no_grad():
            targets = _rival(model(x).float(), y)
            moved = climbed(
                x,
                lambda moved: -F.cross_entropy(model(moved).float(), targets, reduction="sum"),
                Ball(self.radius, "2"),
                step=self.radius / self.steps,
                steps=self.steps,
            )
        return moved, targets


def _rival(logits: Tensor, y: Tensor) -> Tensor:
    """The most likely class `[n]` but for the own one."""
    return logits.scatter(1, y.unsqueeze(1), -torch.inf).argmax(1)


@torch.no_grad()
def _statistics(model: nn.Module, place: str, clean: Images, run: Run) -> tuple[Tensor, Tensor]:
    """The mean and variance `[channels]` of the stage's maps on the clean images, in eval mode."""
    sums, squares, count = torch.zeros(()), torch.zeros(()), 0
    with in_mode(model, train=False), stage_maps(model, (place,)) as maps:
        for x, _ in clean.batches(256):
            model(x.to(run.device))
            flat = maps[place].movedim(1, 0).flatten(1).double()
            sums, squares = sums.to(flat) + flat.sum(1), squares.to(flat) + flat.square().sum(1)
            count += flat.shape[1]
    mean = sums / count
    return mean.float(), (squares / count - mean.square()).clamp_min(0).float()
