"""Neural Cleanse: find the trigger, then unlearn it."""

from __future__ import annotations

import math
from functools import partial
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ..core.errors import ParameterError
from ..core.images import Images, to_float, to_uint8
from ..core.measure import seconds_of_step
from ..core.method import source
from ..core.modules import copied, device_of
from ..core.run import Run
from ..training.inversion import Patch, Search, anomalies, invert
from .base.defense import Repair, Tuning
from .base.inverting import Inverting, Trigger
from .base.needs import Need

LONG = 50_000
"""A search of more steps than that, twice those of ten classes, is announced with its hours."""


class NeuralCleanse(Tuning, Inverting):
    """Reconstructs a trigger for every class and unlearns those that are unusually small.

    Where a class's trigger is an outlier on the small side (anomaly index above `anomaly`), a share
    of the clean images is stamped with it, keeps its true labels, and the model is fine-tuned on
    all. Where there is no outlier the model is left as it is. The notes tell the classes found
    (`outliers`) and, of the strongest, the class and its index; the scores hold every class's size
    (`trigger sizes`, in pixels) and index (`anomaly indices`).

    The search costs `search_epochs` passes over `search_images` for every class: 2,560 steps with
    the defaults, which is minutes a class on a processor. A search that needs more than `budget`
    steps over all classes is refused before it starts, with the hours it would take. With few
    images there are as many passes, so fewer steps.
    """

    paper: ClassVar[str] = (
        "Wang, Yao, Shan, Li, Viswanath, Zheng, Zhao: Neural Cleanse: Identifying and Mitigating "
        "Backdoor Attacks in Neural Networks, IEEE S&P 2019"
    )
    limits: ClassVar[str] = (
        "finds patches: SIG, SSBA, LF and WaNet leave no outlier in published tables; among two or "
        "three classes nothing can be one; by far the slowest method here"
    )
    needs: ClassVar[frozenset[Need]] = frozenset({"labels", "training"})

    epochs: int = Field(
        10,
        ge=0,
        description="epochs of unlearning",
        json_schema_extra=source("ours: 10, for time, where BackdoorBench takes 100"),
    )
    search_epochs: int = Field(
        80,
        ge=1,
        description="epochs that search for the trigger of a class",
        json_schema_extra=source("BackdoorBench: 80"),
    )
    search_images: int = Field(
        1000,
        ge=1,
        description="largest number of clean images for the search",
        json_schema_extra=source("authors' configuration: 1,000 an epoch"),
    )
    search_batch: int = Field(
        32,
        ge=1,
        description="batch size of the search",
        json_schema_extra=source("authors' configuration: 32"),
    )
    search_lr: float = Field(
        0.1,
        gt=0,
        description="learning rate of Adam in the search",
        json_schema_extra=source("authors' configuration: 0.1"),
    )
    cost: float = Field(
        1e-3,
        gt=0,
        description="weight of the trigger's size at the start",
        json_schema_extra=source(
            "authors' configuration: 0.001, from the first `patience` good epochs on; ours at once"
        ),
    )
    success: float = Field(
        0.98,
        gt=0,
        le=1,
        description="ASR that a reconstructed trigger must reach",
        json_schema_extra=source("BackdoorBench: 0.98; the authors take 0.99"),
    )
    patience: int = Field(
        5,
        ge=1,
        description="epochs before that weight changes",
        json_schema_extra=source("authors' configuration: 5"),
    )
    fall: float = Field(
        1.5,
        gt=0,
        description="that weight doubles, or falls by 2 to this power",
        json_schema_extra=source("authors' configuration: 1.5"),
    )
    betas: tuple[float, float] = Field(
        (0.5, 0.9),
        description="betas of Adam in the search",
        json_schema_extra=source("authors' configuration: 0.5, 0.9"),
    )
    anomaly: float = Field(
        2.0,
        gt=0,
        description="anomaly index above which a class is an outlier",
        json_schema_extra=source("paper: 2"),
    )
    share: float = Field(
        0.2,
        gt=0,
        le=1,
        description="share of the clean images that get the trigger while unlearning",
        json_schema_extra=source("paper: 20 %"),
    )
    budget: int = Field(
        1_000_000,
        ge=1,
        description="largest number of steps of the search; a longer one is refused",
        json_schema_extra=source("ours: hours on a GPU, weeks on a processor"),
    )

    def check(self, model: nn.Module, clean: Images) -> None:
        """Refuses, before it starts, a search that would take more steps than the budget."""
        super().check(model, clean)
        self.afford(model, clean, 1)

    def afford(self, model: nn.Module, clean: Images, searches: int) -> None:
        """Raises `ParameterError` where so many searches would take more than the budget."""
        steps = searches * self._steps(clean)
        if steps > self.budget:
            raise ParameterError(
                f"{self.name()} would search {self._told(model, clean, steps)} where the "
                f"model lies now, more than its budget of {self.budget:,} steps; lower "
                "search_epochs or search_images, or raise budget"
            )

    def _steps(self, clean: Images) -> int:
        """The steps of one search of all classes."""
        batches = math.ceil(min(len(clean), self.search_images) / self.search_batch)
        return len(clean.classes) * self.search_epochs * batches

    def _told(self, model: nn.Module, clean: Images, steps: int) -> str:
        """What is searched in so many steps, and how long they take where `model` lies."""
        own = copied(model).requires_grad_()
        x = to_float(clean.pixels[: self.search_batch]).to(device_of(own))
        hours = steps * seconds_of_step(own, x, Run(device=x.device)) / 3600
        told = f"about {hours:,.0f} hours" if hours >= 1 else "less than an hour"
        each = f"{steps:,} steps of {self.search_batch} images"
        return f"{len(clean.classes):,} classes in {each}, {told}"

    def work(self, images: int, classes: int) -> float | None:
        """The search, and epochs of all images, if there is an outlier."""
        return self.search(images, classes) + self.epochs * images

    def search(self, images: int, classes: int) -> float:
        """All passes of some images, for every class."""
        return float(classes * self.search_epochs * min(images, self.search_images))

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model` without what its outlying triggers do; a long search is announced."""
        if (steps := self._steps(clean)) > LONG:
            self._warn(
                f"searches {self._told(model, clean, steps)}; lower search_epochs or search_images "
                "for less"
            )
        patches = self.triggers(model, clean, run)
        sizes = torch.tensor([patch.size for patch in patches])
        index = anomalies(sizes)
        if outliers := self._outliers(patches):
            self.tune(model, self.stamped(clean, outliers, run), run, stage="unlearning")
        scores: dict[str, Tensor] = {"trigger sizes": sizes, "anomaly indices": index}
        strongest = int(index.argmax())
        notes = {
            "outliers": float(len(outliers)),
            "strongest_class": float(strongest),
            "strongest_anomaly": float(index[strongest]),
        }
        return Repair(model, {}, scores, notes)

    def inverted(self, model: nn.Module, clean: Images, run: Run) -> Trigger | None:
        """The outlying patches, each on every so many-th image; None where there is no outlier."""
        outliers = self._outliers(self.triggers(model, clean, run))
        return partial(_in_turn, outliers) if outliers else None

    def _outliers(self, patches: list[Patch]) -> list[Patch]:
        index = anomalies(torch.tensor([patch.size for patch in patches]))
        return [patches[i] for i in torch.nonzero(index > self.anomaly).flatten().tolist()]

    def triggers(self, model: nn.Module, clean: Images, run: Run) -> list[Patch]:
        """The smallest trigger found for every class."""
        search = Search(
            epochs=self.search_epochs,
            lr=self.search_lr,
            batch=self.search_batch,
            cost=self.cost,
            success=self.success,
            patience=self.patience,
            fall=self.fall,
            betas=self.betas,
        )
        classes = len(clean.classes)
        clean = clean.sample(self.search_images, run.rng("search images"))
        with run.stage("triggers", classes * search.epochs) as advance:
            return [invert(model, label, clean, run, search, advance) for label in range(classes)]

    def stamped(self, clean: Images, patches: list[Patch], run: Run) -> Images:
        """`clean` with a share of its images under the patches in turn, all with true labels."""
        pixels = clean.pixels.clone()
        chosen = torch.randperm(len(clean), generator=run.rng("stamped"))
        chosen = chosen[: round(self.share * len(clean))]
        for number, patch in enumerate(patches):
            own = chosen[number :: len(patches)]
            pixels[own] = to_uint8(patch.stamp(to_float(pixels[own])))
        return Images(pixels, clean.labels, clean.classes)


def _in_turn(patches: list[Patch], x: Tensor) -> Tensor:
    """The images `x` `[n, c, h, w]`, each under the next of the patches."""
    return torch.cat([patches[i % len(patches)].stamp(x[i : i + 1]) for i in range(len(x))])
