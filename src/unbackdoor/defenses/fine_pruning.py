"""Fine-pruning: prune what clean images leave asleep, then fine-tune."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ..core.images import Images, to_float
from ..core.method import source
from ..core.modules import in_mode
from ..core.run import Run
from ..network.head import features_into, find_head, hide_, width
from ..network.norms import deepest_cut
from .base.defense import Repair
from .base.needs import Need
from .base.plain import Plain

CUTS = 32
"""Shares are tried in steps of 1/32. Ours: BackdoorBench prunes channel by channel."""


class FinePruning(Plain):
    """Hides from the classifier the features that clean images activate least; fine-tunes.

    The features are what goes into the last layer, the one that puts out the logits: the last place
    where a backdoor can be cut off. In a network with shortcuts a channel of the last convolution
    is only a part of one of them; without it the shortcut keeps the feature, and the backdoor,
    alive. The activation of a feature is its mean size over the clean images `[n, c, h, w]`. The
    quietest go, a 32nd of them at a time, until the accuracy on clean images held out from the
    ranking (on all, where too few to hold any out) would fall by more than `cost`. They stay hidden
    through the fine-tuning. BackdoorBench's bound is a share of the accuracy on the test set, which
    is none of a defense's business, and it ranks by the mean of the signed activation. Raises
    `ModelError` for a network whose logits no layer puts out.
    """

    paper: ClassVar[str] = (
        "Liu, Dolan-Gavitt, Garg: Fine-Pruning: Defending Against Backdooring Attacks on Deep "
        "Neural Networks, RAID 2018, arXiv 1805.12185"
    )
    limits: ClassVar[str] = (
        "an attacker who knows of it keeps the backdoor in features that clean images use; "
        "published ASR is 79 % for label-consistent and 68 % for TrojanNN"
    )
    needs: ClassVar[frozenset[Need]] = frozenset({"labels", "training"})

    cost: float = Field(
        0.1,
        ge=0,
        le=1,
        description="largest drop of held-out accuracy that pruning may cause",
        json_schema_extra=source("BackdoorBench: 0.1"),
    )

    def check(self, model: nn.Module, clean: Images) -> None:
        """Refuses a network whose logits no layer puts out."""
        super().check(model, clean)
        find_head(model, to_float(clean.pixels[:2]), self.name())

    def work(self, images: int, classes: int) -> float | None:
        """Epochs of all images, and what chooses the share."""
        return self.epochs * images + self.judging(images, CUTS)

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model` without its sleeping features, fine-tuned."""
        ranking, held = self.with_judges(clean, run, "share")
        name, head = find_head(model, to_float(clean.pixels[:2]), self.name())
        activation = activations(model, name, ranking, run)
        quietest_first = activation.argsort(stable=True)

        def quietest(share: float) -> Tensor:
            mask = torch.zeros(width(head), dtype=torch.bool)
            mask[quietest_first[: int(share * len(mask))]] = True
            return mask

        def hide_in(trial: nn.Module, mask: Tensor) -> None:
            hide_(trial.get_submodule(name), mask)

        share = deepest_cut(
            model,
            lambda trial, cut: hide_in(trial, quietest(cut)),
            (step / CUTS for step in range(1, CUTS)),
            self.cost,
            held,
            run,
        )
        mask = quietest(share)
        hide_in(model, mask)
        self.tune(model, clean, run, after_step=lambda tuned: hide_in(tuned, mask))
        return Repair(model, {name: mask}, {name: activation}, {"share": share})


@torch.no_grad()
def activations(model: nn.Module, head: str, clean: Images, run: Run) -> Tensor:
    """The mean size float32 `[features]` of what the layer at path `head` sees, in eval mode."""
    layer = model.get_submodule(head)
    total = torch.zeros(width(layer))
    with in_mode(model, train=False), features_into(layer) as seen:
        for x, _ in clean.batches(256):
            model(x.to(run.device))
            size = seen.pop().float().abs()
            total += (size.flatten(2).mean(2) if size.ndim == 4 else size).sum(0).cpu()
    return total / len(clean)
