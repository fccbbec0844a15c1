"""PAM: path-aware minimisation, around a repair that finds a trigger."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field, JsonValue
from torch import Tensor, nn
from torch.nn import functional as F

from ..core import method
from ..core.errors import ParameterError
from ..core.images import Images
from ..core.method import source
from ..core.run import Run
from ..training.fit import constant, estimate_norms_
from .base.defense import Repair, Tuning
from .base.inverting import Inverting, Trigger
from .base.needs import Need


class PAM(Tuning):
    """Tunes a repaired model with gradients taken on the way back to the backdoored one.

    First the repair called `of`, with its `settings`, is applied. Then, in each of `rounds`, it
    finds a trigger - of the model as it came in the first round, later of the model as it is - and
    the model is tuned on clean images, a `share` of each batch under that trigger, all with true
    labels. Each gradient is that at w + rho (v - w) / |v - w|, where w are the weights and v those
    of the model as it came: so the loss is low on the path back, and a few triggered images do not
    bring the backdoor back. Images are `[n, c, h, w]` in [0, 1].

    Where no trigger was found the images stay clean. Norms estimate their statistics anew at the
    end, at the weights themselves, which no pass of the training saw. The authors' release starts
    from the model as it came and does this in place of the unlearning of BTI-DBF, with one
    generator that learns on from round to round; here a whole repair comes first, and each round
    seeks a trigger of its own.
    """

    paper: ClassVar[str] = (
        "Min, Qin, Zhang, Shen, Cheng: Uncovering, Explaining, and Mitigating the Superficial "
        "Safety of Backdoor Defense, NeurIPS 2024, arXiv 2410.09838"
    )
    limits: ClassVar[str] = (
        "no better than the trigger that the wrapped repair finds; costs that repair, an inversion "
        "a round (with neural_cleanse four searches of all classes) and 90 epochs"
    )
    needs: ClassVar[frozenset[Need]] = frozenset({"labels", "training"})

    of: str = Field(
        "bti_dbf",
        description="repair that finds the trigger: bti_dbf or neural_cleanse",
        json_schema_extra=source("paper: triggers of BTI-DBF"),
    )
    settings: dict[str, JsonValue] = Field(
        {},
        description="parameters of that repair, as JSON",
        json_schema_extra=source("ours: none, so its own defaults"),
    )
    rounds: int = Field(
        3,
        ge=1,
        description="rounds, each with a trigger of its own",
        json_schema_extra=source("authors' configuration: 3"),
    )
    epochs: int = Field(
        30,
        ge=0,
        description="epochs a round",
        json_schema_extra=source("authors' configuration: 30"),
    )
    batch: int = Field(
        128,
        ge=2,
        description="batch size",
        json_schema_extra=source("authors' configuration: 128"),
    )
    momentum: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="momentum of SGD",
        json_schema_extra=source("authors' configuration: 0.1"),
    )
    lr: float = Field(
        0.01,
        gt=0,
        description="learning rate of SGD (constant)",
        json_schema_extra=source("authors' configuration: 0.01"),
    )
    weight_decay: float = Field(
        0.0,
        ge=0,
        description="weight decay of SGD",
        json_schema_extra=source("authors' configuration: none"),
    )
    rho: float = Field(
        0.5,
        ge=0,
        description="L2 length of the way back at which the gradient is taken",
        json_schema_extra=source("authors' configuration: 0.5, within 0.3 to 0.9"),
    )
    share: float = Field(
        0.2,
        gt=0,
        le=1,
        description="share of a batch under the trigger",
        json_schema_extra=source("authors' configuration: 0.2"),
    )

    def check(self, model: nn.Module, clean: Images) -> None:
        """Refuses what the wrapped repair refuses, and one that finds no trigger."""
        super().check(model, clean)
        inner = self.inner()
        inner.check(model, clean)
        inner.afford(model, clean, 1 + self.rounds)

    def work(self, images: int, classes: int) -> float | None:
        """The wrapped repair, and in each round a search and the epochs."""
        inner = self.inner()
        repaired = inner.work(images, classes)
        each = inner.search(images, classes) + self.epochs * images
        return None if repaired is None else repaired + self.rounds * each

    def inner(self) -> Inverting:
        """The wrapped repair; raises `ParameterError` for one that finds no trigger."""
        inner = method.build("defense", self.of, {"flip": self.flip, **self.settings})
        if not isinstance(inner, Inverting):
            raise ParameterError(
                f"{self.name()} needs a repair that finds a trigger, such as bti_dbf or "
                f"neural_cleanse; {self.of} finds none"
            )
        return inner

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model`, repaired and then tuned in place."""
        inner, came = self.inner(), copy.deepcopy(model)
        tuned = inner.mend(model, clean, run).model
        for number in range(1, self.rounds + 1):
            trigger = inner.inverted(came if number == 1 else tuned, clean, run)
            self._round(tuned, came, trigger, clean, run, number)
        estimate_norms_(tuned, clean, run, batch=self.batch, flip=self.flip)
        return Repair(tuned)

    def _round(
        self,
        tuned: nn.Module,
        came: nn.Module,
        trigger: Trigger | None,
        clean: Images,
        run: Run,
        number: int,
    ) -> None:
        def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            moved = max(1, round(self.share * len(x)))
            if trigger is not None:
                with torch.no_grad():
                    x = torch.cat([trigger(x[:moved]).to(x), x[moved:]])
            return F.cross_entropy(model(x).float(), y)

        # A repair may have added layers, which the model as it came has not: their path is empty.
        there = dict(came.named_parameters())
        back = [
            there.get(name, weight).detach()
            for name, weight in tuned.named_parameters()
            if weight.requires_grad
        ]
        self.tune(
            tuned,
            clean,
            run,
            objective=loss,
            optimizer=lambda parameters: PathAware(
                list(parameters),
                back,
                rho=self.rho,
                lr=self.lr,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
            ),
            schedule=constant,
            stage=f"path {number}",
        )


class PathAware(torch.optim.SGD):
    """SGD whose gradient is that `rho` further on the straight way to the weights `back`."""

    def __init__(
        self, weights: Sequence[nn.Parameter], back: Sequence[Tensor], *, rho: float, **told: Any
    ) -> None:
        super().__init__(weights, **told)
        self.weights, self.back, self.rho = weights, back, rho

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; `closure` clears the gradients, computes them and returns the loss."""
        assert closure is not None
        ways = [there - weight for weight, there in zip(self.weights, self.back, strict=True)]
        length = torch.stack([way.norm() for way in ways]).norm()
        reach = self.rho / length if length > 0 else 0.0
        before = [weight.clone() for weight in self.weights]
        for weight, way in zip(self.weights, ways, strict=True):
            weight.add_(way * reach)
        loss = closure()
        for weight, value in zip(self.weights, before, strict=True):
            weight.copy_(value)
        super().step()
        return loss
