"""IMS: a mask whose inverse keeps the backdoor."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from ..core.errors import ModelError
from ..core.images import Images, to_float
from ..core.method import source
from ..core.modules import frozen
from ..core.run import Run
from ..network.layers import Layer, find_layers
from ..training.adversarial import Ball
from .base.defense import Defense, Repair
from .base.needs import Need

SLOPE = 20.0
"""How steeply a mask turns a channel off around 0.5."""


class IMS(Defense):
    """Learns a mask over channels that removes a backdoor, while its inverse keeps it.

    A channel's output is multiplied by g = M + s (1 - M), M = sigmoid(20 (m - 0.5)), in the masked
    network, and by the same with 1 - m in the inverse one; s says how far both need the channel.
    In each round, `steps` steps of AdamW find for every image of a batch a change in an L2 ball of
    `radius` that turns the answer of the original model and leaves the inverse network agreeing
    with it: a trigger, as far as the masks know. Then the masks take a step so that the masked
    network gives the original's answer to the clean image with and without that change, and the
    inverse network gives the original's answer to the changed image; s pays `price` times its mean.
    Networks agree as far as -log sum(p q) of their probabilities is small, and disagree as far as
    -log(1 - sum(p q)) is. No labels are needed. Images are `[n, c, h, w]` in [0, 1].

    In the end each channel's weights are multiplied by its g, so that the network is the same one.
    A channel is that of a convolution, or in a transformer a hidden unit of an MLP block; there the
    paper masks the dimensions behind each encoder block, which the weights alone cannot hold, and
    takes a `price` of 0. The paper has 100 and 200 rounds; what differs between them was not to be
    found, nor where masks start: here all rounds are the same, and every channel starts open.
    """

    paper: ClassVar[str] = (
        "Dunnett, Arablouei, Miller, Dedeoglu, Jurdak: Backdoor Mitigation via Invertible Pruning "
        "Masks, NeurIPS 2025, arXiv 2509.15497"
    )
    limits: ClassVar[str] = (
        "written from a summary of the paper, so rounds and starts are a reading; its authors say "
        "that retraining brings the backdoor back; a round costs more than forty passes of a batch"
    )
    needs: ClassVar[frozenset[Need]] = frozenset({"training"})

    rounds: int = Field(
        300,
        ge=0,
        description="largest number of rounds, one batch each",
        json_schema_extra=source("authors' configuration: at most 100 and 200"),
    )
    patience: int = Field(
        25,
        ge=1,
        description="rounds without a lower loss after which it stops",
        json_schema_extra=source("authors' configuration: 25"),
    )
    lr: float = Field(
        0.02,
        gt=0,
        description="learning rate of AdamW for the masks",
        json_schema_extra=source("authors' configuration: 0.02"),
    )
    batch: int = Field(
        128,
        ge=2,
        description="batch size",
        json_schema_extra=source("ours: 128, the field's usual; the summary names none"),
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
        description="largest L2 length of a change, pixels in [0, 1]",
        json_schema_extra=source("authors' configuration: 1"),
    )
    price: float = Field(
        10.0,
        ge=0,
        description="weight of the mean of s",
        json_schema_extra=source("authors' configuration: 10; 0 for vision transformers"),
    )

    def check(self, model: nn.Module, clean: Images) -> None:
        """Refuses a network without channels to mask."""
        super().check(model, clean)
        find_layers(model, to_float(clean.pixels[:2]))

    def work(self, images: int) -> float | None:
        """Each step of the changes goes through two networks; the masks through three more."""
        return float(self.rounds * self.batch * (2 * self.steps + 4))

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model` with its channels scaled by their masks."""
        original = copy.deepcopy(model).eval().requires_grad_(False)
        gated = Gated(original, find_layers(model, to_float(clean.pixels[:2])))
        adam = torch.optim.AdamW(gated.parameters(), lr=self.lr)
        rng = run.rng("batches")
        best, since = float("inf"), 0
        with run.stage("masks", self.rounds) as advance, torch.enable_grad():
            for _ in range(self.rounds):
                x = clean.sample(self.batch, rng).pixels
                loss = self._round(gated, original, adam, to_float(x).to(run.device), run)
                if not loss < float("inf"):
                    raise ModelError(f"{self.name()} diverged: the loss is {loss:g}")
                best, since = (loss, 0) if loss < best else (best, since + 1)
                advance(1)
                if since == self.patience:
                    break
        gates = gated.bake_(model)
        return Repair(model, {}, gates, score_name="gate of each channel; 0: removed")

    def _round(
        self,
        gated: Gated,
        original: nn.Module,
        adam: torch.optim.Optimizer,
        x: Tensor,
        run: Run,
    ) -> float:
        with run.autocast():
            with torch.no_grad():
                answers = original(x).float()
            moved = self.moved(gated, original, x, answers)
            with torch.no_grad():
                fooled = original(moved).float()
            loss = agreement(gated(x), answers) + agreement(gated(moved), answers)
            loss = loss + agreement(gated(moved, inverse=True), fooled)
        loss = loss + self.price * torch.cat(list(gated.shared)).mean()
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        gated.clip_()
        return float(loss.detach())

    def moved(self, gated: Gated, original: nn.Module, x: Tensor, answers: Tensor) -> Tensor:
        """The images `x` changed so that only the masked network should not follow.

        `answers` `[n, classes]` is what the original says of `x`.
        """
        ball = Ball(self.radius, "2")
        away = torch.zeros_like(x).requires_grad_()
        adam = torch.optim.AdamW([away], lr=self.step_lr, weight_decay=0)
        with frozen(gated):
            for _ in range(self.steps):
                changed = (x + away).clamp(0, 1)
                turned = original(changed).float()
                loss = agreement(gated(changed, inverse=True), turned)
                loss = loss + disagreement(turned, answers)
                (away.grad,) = torch.autograd.grad(loss, away)
                adam.step()
                with torch.no_grad():
                    away.copy_(ball.clipped(away))
        return (x + away).clamp(0, 1).detach()


class Gated(nn.Module):
    """`net` with the output channels of its layers multiplied by gates; `net` itself stays.

    `kept` and `shared` hold m and s `[channels]` of each layer: the only parameters that train.
    """

    def __init__(self, net: nn.Module, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.net = net
        self.layers = tuple(layers)
        device = next(net.parameters()).device
        ones = [torch.ones(layer.channels, device=device) for layer in layers]
        self.kept = nn.ParameterList([nn.Parameter(one.clone()) for one in ones])
        self.shared = nn.ParameterList([nn.Parameter(one.clone()) for one in ones])

    def gates(self, *, inverse: bool = False) -> list[Tensor]:
        """The gate `[channels]` of each layer, in [0, 1]."""
        sign = -1.0 if inverse else 1.0
        masks = [torch.sigmoid(sign * SLOPE * (kept - 0.5)) for kept in self.kept]
        return [m + s * (1 - m) for m, s in zip(masks, self.shared, strict=True)]

    def forward(self, x: Tensor, *, inverse: bool = False) -> Tensor:
        """Images `[n, c, h, w]` in [0, 1] -> logits `[n, classes]` of the masked network."""
        weights: dict[str, Tensor] = {}
        for layer, gate in zip(self.layers, self.gates(inverse=inverse), strict=True):
            weights |= scaled(self.net, layer, gate)
        told: Tensor = functional_call(self.net, weights, (x,))
        return told.float()

    @torch.no_grad()
    def clip_(self) -> None:
        """Brings m and s back into [0, 1]."""
        for parameter in self.parameters():
            if parameter.requires_grad:
                parameter.clamp_(0, 1)

    @torch.no_grad()
    def bake_(self, model: nn.Module) -> dict[str, Tensor]:
        """Multiplies the channels of `model`, a copy of `net`, by the gates, and returns these."""
        found = dict(zip((layer.name for layer in self.layers), self.gates(), strict=True))
        for layer in self.layers:
            for name, value in scaled(self.net, layer, found[layer.name]).items():
                model.get_parameter(name).copy_(value)
        return {name: gate.detach().cpu() for name, gate in found.items()}


def scaled(net: nn.Module, layer: Layer, gate: Tensor) -> dict[str, Tensor]:
    """The parameters of `net` that make the `layer`'s channels `gate` times as large, by name.

    Those of its norms where it feeds one: a norm would undo the scale of what it takes.
    """
    norms = [path for path in (layer.norm, *layer.other_norms) if path is not None]
    return {
        f"{path}.{name}": value * gate.view(-1, *[1] * (value.ndim - 1))
        for path in norms or [layer.name]
        for name, value in net.get_submodule(path).named_parameters(recurse=False)
        if name in ("weight", "bias")
    }


def agreement(logits: Tensor, other: Tensor) -> Tensor:
    """-log of the probability that two models name the same class: the mean over `[n, classes]`."""
    return -_together(logits, other).mean()


def disagreement(logits: Tensor, other: Tensor) -> Tensor:
    """-log of the probability that they do not."""
    same = _together(logits, other).clamp(max=-1e-6)
    return -torch.log1p(-same.exp()).mean()


def _together(logits: Tensor, other: Tensor) -> Tensor:
    return (logits.log_softmax(1) + other.log_softmax(1)).logsumexp(1)
