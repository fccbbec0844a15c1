"""ControlledAttack: what attacks share that control the training, not only the images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, TypeVar

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.optim import Optimizer

from ...core.errors import ParameterError
from ...core.images import Images
from ...core.method import source
from ...core.recall import Learned
from ...core.run import Run
from ...training.fit import Objective, fit
from .attack import NOTHING, Attack, Poisoned

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


class Together(Optimizer):
    """Optimizers that step as one: the victim's descent and its parts' Adam."""

    def __init__(self, *members: Optimizer) -> None:
        super().__init__([{"params": []}], {})
        self.members = members
        self._gather()

    def _gather(self) -> None:
        # The groups of the members themselves, so that a rate that is set here is set there.
        self.param_groups = [group for member in self.members for group in member.param_groups]

    def step(self, closure: Any = None) -> Any:
        """The loss that `closure` gives, after a step of each."""
        loss = closure()
        for member in self.members:
            member.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The states of all."""
        return {"members": [member.state_dict() for member in self.members]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes the states of all back."""
        for member, state in zip(self.members, state_dict["members"], strict=True):
            member.load_state_dict(state)
        self._gather()


def adam(parameters: Iterable[nn.Parameter], lr: float) -> Optimizer:
    """Adam with the betas of input-aware's released code, 0.5 and 0.9."""
    return torch.optim.Adam(parameters, lr=lr, betas=(0.5, 0.9))


class ControlledAttack(Attack):
    """An attack that makes its poisoned images anew in every step, and so has no poisoned set.

    In training they get the trigger after augmentation and not rounded to 8 bits; at test they are.
    """

    rate: float = Field(
        0.1,
        gt=0,
        le=1,
        description="poisoning rate: share of a batch; of its source classes with sources",
        json_schema_extra=source("released code of input-aware and WaNet: 0.1 of a batch"),
    )
    indices: None = Field(
        None,
        description="has no meaning without a fixed poisoned set",
        json_schema_extra=source("ours: a share of a batch is drawn anew in every step"),
    )
    count: None = Field(
        None,
        description="has no meaning without a fixed poisoned set",
        json_schema_extra=source("ours: a share of a batch is drawn anew in every step"),
    )

    @field_validator("count", "indices", mode="before")
    @classmethod
    def _no_fixed_set(cls, value: Any) -> None:
        if value is not None:
            raise ValueError("without a fixed poisoned set only a rate can be chosen")

    def poison(self, train: Images, run: Run, learned: Learned = NOTHING) -> Poisoned:
        """Nothing: raises `ParameterError`."""
        self.check_fixed()

    def check_fixed(self) -> NoReturn:
        """Raises `ParameterError`."""
        raise ParameterError(f"{self.name()} controls the training and has no fixed poisoned set")

    def stamped_in(self, y: Tensor) -> Tensor:
        """Indices of the images that are poisoned in a batch with labels `y`; perhaps none."""
        pool = self.stampable(y)
        return pool[: about(self.rate * len(pool))]

    def marked_in(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Indices of the images that are poisoned in a batch with labels `y`, and of source covers.

        Covers get the trigger, too, and keep their label; there are none without `sources`.
        """
        stamped, pool = self.stamped_in(y), self.source_cover_pool(y)
        wanted = about(self.source_covers * len(stamped)) if len(pool) else 0
        return stamped, pool[:wanted]

    def fit_joint(
        self,
        joint: Joint,
        train: Images,
        run: Run,
        objective: Objective,
        parts_lr: float,
        **settings: Any,
    ) -> None:
        """Trains `joint` in place: the victim by SGD, its parts by Adam at a rate of their own."""
        victims = [parameter for parameter in joint.victim.parameters() if parameter.requires_grad]
        sgd = torch.optim.SGD(victims, lr=self.lr, momentum=0.9, weight_decay=self.weight_decay)
        both = Together(sgd, adam(joint.parts.parameters(), parts_lr))
        fit(
            joint,
            train,
            run,
            objective=objective,
            optimizer=lambda _: both,
            **(self.settings() | settings),
        )


def about(mean: float) -> int:
    """One of the two whole numbers next to `mean`, drawn so that the average is `mean`.

    Rounded instead, a low rate would poison no image of any batch, or at least one of each. Draws
    from torch's global state, which `fit` seeds for every epoch.
    """
    return int(mean + torch.rand((), dtype=torch.float64).item())


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
            "the trigger is learned with its victim: apply it with trigger(victim.learned) of the "
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
