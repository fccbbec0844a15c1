"""IMS: a mask whose inverse keeps the backdoor."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ..core.errors import ModelError
from ..core.images import Images, to_float
from ..core.method import source
from ..core.modules import frozen
from ..core.run import Run
from ..network.attention import cuts_patches
from ..network.blocks import find_blocks
from ..network.gates import Gated, bake_
from ..network.layers import find_layers
from ..training.agreement import agreement, disagreement
from .base.defense import Defense, Repair
from .base.needs import Need


class IMS(Defense):
    """Learns a mask over channels that removes a backdoor, while its inverse keeps it.

    What a convolution puts out in a channel is multiplied by g = M + s (1 - M), with
    M = sigmoid(`slope` (m - 0.5)), in the masked network, and by the same with 1 - m in the inverse
    one. m and s start at 1; `price` times the mean of 1 - s is paid, so that channels are shared
    unless they need not be. First, for `first_rounds`, the masked network learns to agree with the
    original on clean images, and the inverse one to disagree. Then, in each of `rounds`, `steps`
    steps of AdamW find for every image of a batch a change of at most `radius` a pixel that turns
    the original's answer and leaves the inverse network agreeing with it: a trigger, as far as the
    masks know. The masked network learns the original's answer to the clean image, with the change
    and without it; the inverse one that to the changed image, and to disagree with that to the
    clean one on both. That is done once without the price and once with it. Each of the three
    phases ends where its loss has not fallen by the share `improvement` for `patience` rounds.

    Networks agree as far as -log sum(p q) of their probabilities is small, and disagree as far as
    -log(1 - sum(p q)) is. No labels are needed. Images are `[n, c, h, w]` in [0, 1], changed ones
    may leave it. In the end the convolutions' weights are multiplied by g. In a transformer g
    stands behind each encoder block, one for each dimension of the tokens, and is an extra entry
    of the state dict (`inserts`); there the authors take a price of 0.

    All is as in the authors' published implementation but for two details: logarithms are taken of
    exact sums, where that adds 1e-8; and a convolution whose pooled maps are the logits has no g.
    """

    paper: ClassVar[str] = (
        "Dunnett, Arablouei, Miller, Dedeoglu, Jurdak: Backdoor Mitigation via Invertible Pruning "
        "Masks, NeurIPS 2025, arXiv 2509.15497"
    )
    limits: ClassVar[str] = (
        "its authors say that retraining brings the backdoor back; a round costs more than forty "
        "passes of a batch; only unbackdoor reads the file of a repaired transformer"
    )
    needs: ClassVar[frozenset[Need]] = frozenset({"training"})

    first_rounds: int = Field(
        100,
        ge=0,
        description="largest number of rounds on clean images alone, one batch each",
        json_schema_extra=source("authors' configuration: 100"),
    )
    rounds: int = Field(
        200,
        ge=0,
        description="largest number of rounds with changed images, without the price and with it",
        json_schema_extra=source("authors' configuration: 200, and 200 more"),
    )
    patience: int = Field(
        25,
        ge=0,
        description="rounds without a lower loss that a phase bears",
        json_schema_extra=source("authors' configuration: 25"),
    )
    improvement: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="share by which the loss must fall to count as lower",
        json_schema_extra=source("authors' configuration: to 0.98 of the lowest"),
    )
    lr: float = Field(
        0.02,
        gt=0,
        description="learning rate of AdamW for the masks",
        json_schema_extra=source("authors' configuration: 0.02"),
    )
    batch: int = Field(
        256,
        ge=2,
        description="batch size",
        json_schema_extra=source("authors' configuration: 256"),
    )
    steps: int = Field(
        20,
        ge=1,
        description="steps that find the changes",
        json_schema_extra=source("authors' configuration: 20"),
    )
    step_lr: float = Field(
        1e-3,
        gt=0,
        description="learning rate of AdamW for the changes",
        json_schema_extra=source("authors' configuration: 1e-3"),
    )
    radius: float = Field(
        1.0,
        gt=0,
        description="largest change of a pixel",
        json_schema_extra=source("authors' configuration: 1"),
    )
    price: float | None = Field(
        None,
        ge=0,
        description="weight of the mean of 1 - s; null: 10, in a transformer 0",
        json_schema_extra=source("authors' configuration: 10; 0 for vision transformers"),
    )
    slope: float = Field(
        20.0,
        gt=0,
        description="how steeply a mask turns a channel off around 0.5",
        json_schema_extra=source("authors' configuration: k = 20"),
    )

    def check(self, model: nn.Module, clean: Images) -> None:
        """Refuses a network without channels to mask."""
        super().check(model, clean)
        self._hosts(model, clean)

    def work(self, images: int, classes: int) -> float | None:
        """Changes go through two networks, images through both masked ones and the original."""
        first = self.first_rounds * (2 + 1 / 3)
        later = 2 * self.rounds * (2 * self.steps + 4 + 2 / 3)
        return min(self.batch, images) * (first + later)

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model` with its channels scaled by their masks."""
        hosts = self._hosts(model, clean)
        price = self.price if self.price is not None else 0.0 if find_blocks(model) else 10.0
        original = copy.deepcopy(model).eval().requires_grad_(False)
        gated = Gated(copy.deepcopy(original), hosts, self.slope)
        parted, resisted = (partial(f, gated, original) for f in (self.parted, self.resisted))
        self._learn(gated, parted, self.first_rounds, price, clean, run, "parting")
        self._learn(gated, resisted, self.rounds, 0.0, clean, run, "masks")
        self._learn(gated, resisted, self.rounds, price, clean, run, "masks at a price")
        gates = dict(zip(hosts, (gate.detach() for gate in gated.gates()), strict=True))
        bake_(model, gates)
        scores = {name: gate.cpu() for name, gate in gates.items()}
        return Repair(model, {}, scores, score_name="gate of each channel; 0: removed")

    def _hosts(self, model: nn.Module, clean: Images) -> dict[str, int]:
        """What has gates behind it, and how many: encoder blocks, or else convolutions."""
        if blocks := find_blocks(model):
            return blocks
        x = to_float(clean.pixels[:2])
        layers = find_layers(model, x)
        found = {
            layer.name: layer.channels
            for layer in layers
            if isinstance(model.get_submodule(layer.name), (nn.Conv1d, nn.Conv2d, nn.Conv3d))
        }
        if not found or cuts_patches(model, x):
            raise ModelError(
                f"{self.name()} needs convolutions or the blocks of a transformer, modules that "
                f"hold two layer norms themselves; {type(model).__name__} has none behind its input"
            )
        return found

    def _learn(
        self,
        gated: Gated,
        objective: Callable[[Tensor], Tensor],
        rounds: int,
        price: float,
        clean: Images,
        run: Run,
        stage: str,
    ) -> None:
        """One phase: the masks follow the `objective` of a batch, and pay the `price`."""
        adam = torch.optim.AdamW([*gated.kept, *gated.shared], lr=self.lr)
        rng = run.rng(stage)
        best, since = float("inf"), 0
        with run.stage(stage, rounds) as advance, torch.enable_grad():
            for _ in range(rounds):
                x = to_float(clean.sample(self.batch, rng).pixels).to(run.device)
                with run.autocast():
                    loss = objective(x)
                loss = loss + price * (1 - torch.cat(list(gated.shared))).mean()
                adam.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                adam.step()
                gated.clip_()
                now = float(loss.detach())
                if not now < float("inf"):
                    raise ModelError(f"{self.name()} diverged: the loss is {now:g}")
                lower = now < best * (1 - self.improvement)
                best, since = (now, 0) if lower else (best, since + 1)
                advance(1)
                if since > self.patience:
                    break

    def parted(self, gated: Gated, original: nn.Module, x: Tensor) -> Tensor:
        """The loss that makes the masked network keep the original's answers, the inverse not."""
        with torch.no_grad():
            answers = original(x).float()
        return agreement(gated(x), answers) + disagreement(gated(x, inverse=True), answers)

    def resisted(self, gated: Gated, original: nn.Module, x: Tensor) -> Tensor:
        """The same on `x`, and on `x` changed: the masked network resists, the inverse obeys."""
        with torch.no_grad():
            answers = original(x).float()
        moved = self.moved(gated, original, x, answers)
        with torch.no_grad():
            fooled = original(moved).float()
        inverse = gated(moved, inverse=True)
        loss = agreement(gated(moved), answers)
        loss = loss + agreement(inverse, fooled) + disagreement(inverse, answers)
        return loss + self.parted(gated, original, x)

    def moved(self, gated: Gated, original: nn.Module, x: Tensor, answers: Tensor) -> Tensor:
        """The images `x` changed so that only the masked network should not follow.

        `answers` `[n, classes]` is what the original says of `x`.
        """
        away = torch.zeros_like(x).requires_grad_()
        adam = torch.optim.AdamW([away], lr=self.step_lr)
        with frozen(gated):
            for _ in range(self.steps):
                changed = x + away
                turned = original(changed).float()
                loss = agreement(gated(changed, inverse=True), turned)
                loss = loss + disagreement(turned, answers)
                (away.grad,) = torch.autograd.grad(loss, away)
                adam.step()
                with torch.no_grad():
                    away.clamp_(-self.radius, self.radius)
        return (x + away).detach()
