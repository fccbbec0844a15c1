"""ControlledAttack: what attacks share that control the training, not only the images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from .attack import NOTHING, Attack, Poisoned
from .errors import ParameterError
from .images import Images
from .recall import Learned
from .run import Run
from .train import Objective, fit

Net = TypeVar("Net", bound=nn.Module)


class Joint(nn.Module):
    """A victim and the parts of its trigger, which learn together; calling it calls the victim."""

    def __init__(self, victim: nn.Module, parts: nn.Module) -> None:
        super().__init__()
        self.victim = victim
        self.parts = parts

    def forward(self, x: Tensor) -> Tensor:
        """The logits of the victim."""
        logits: Tensor = self.victim(x)
        return logits


class Bottleneck(nn.Sequential):
    """Maps images `[n, inputs, h, w]` of any size to `[n, outputs, h, w]`."""

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        def block(before: int, after: int) -> list[nn.Module]:
            return [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]

        super().__init__(
            *block(inputs, width),
            nn.MaxPool2d(2, ceil_mode=True),
            *block(width, 2 * width),
            nn.MaxPool2d(2, ceil_mode=True),
            *block(2 * width, 2 * width),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            *block(2 * width, width),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            *block(width, width),
            nn.Conv2d(width, outputs, 3, padding=1),
        )
        self.inputs = inputs

    def forward(self, x: Tensor) -> Tensor:
        """The map, cut to the size of `x`."""
        wide: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return wide[..., : x.shape[-2], : x.shape[-1]]


class ControlledAttack(Attack):
    """An attack that makes its stamped images anew in every step, and so has no poisoned set."""

    rate: float = Field(0.1, gt=0, le=1, description="share of each batch that is stamped")
    count: None = Field(None, description="has no meaning without a fixed poisoned set")

    @field_validator("count", mode="before")
    @classmethod
    def _no_count(cls, value: Any) -> None:
        if value is not None:
            raise ValueError("without a fixed poisoned set only a rate can be chosen")

    def poison(self, train: Images, run: Run, learned: Learned = NOTHING) -> Poisoned:
        """Nothing: raises `ParameterError`."""
        raise ParameterError(f"{self.name()} controls the training and has no fixed poisoned set")

    def stamped_in(self, y: Tensor) -> Tensor:
        """Indices of the images that are stamped in a batch with labels `y`."""
        return self.stampable(y)[: max(1, round(self.rate * len(y)))]

    def fit_joint(
        self,
        joint: Joint,
        train: Images,
        run: Run,
        objective: Objective,
        parts_lr: float,
        **settings: Any,
    ) -> None:
        """Trains `joint` in place, its parts at a learning rate of their own, without decay."""
        decay = self.weight_decay
        groups = [
            {"params": list(joint.victim.parameters()), "weight_decay": decay},
            {"params": list(joint.parts.parameters()), "lr": parts_lr, "weight_decay": 0.0},
        ]
        fit(
            joint,
            train,
            run,
            objective=objective,
            optimizer=lambda _: torch.optim.SGD(groups, lr=self.lr, momentum=0.9),
            **(self.settings() | settings),
        )


def fresh(make: Callable[[], Net], run: Run, name: str) -> Net:
    """The network that `make` makes, its weights drawn for the purpose called `name`."""
    with run.isolated(name):
        return make().to(run.device)


def loaded(make: Callable[[int], Net], learned: Learned, prefix: str) -> Net:
    """The network that `make` makes for a number of channels, with the weights under `prefix`.

    Raises `ParameterError` where none were learned.
    """
    state = {
        name.removeprefix(prefix): value
        for name, value in learned.items()
        if name.startswith(prefix)
    }
    if not state:
        raise ParameterError(
            "the trigger is learned with its victim: stamp with trigger(victim.learned) of the "
            "victim that plant returns"
        )
    with torch.random.fork_rng(devices=[]):
        net = make(next(weight.shape[1] for weight in state.values() if weight.ndim == 4))
    net.load_state_dict(state)
    return net.eval()


def weights(net: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Copies of the weights of `net` on the CPU, each name under `prefix`."""
    return {prefix + name: value.detach().cpu().clone() for name, value in net.state_dict().items()}


def same_channels(net: Bottleneck, x: Tensor) -> None:
    """Raises `ParameterError` unless `net` was made for images like `x`."""
    if x.shape[1] != net.inputs:
        raise ParameterError(
            f"the trigger was learned on {net.inputs} channels, these images have {x.shape[1]}"
        )
