"""Tuning as the field's protocol has it: what a grid's `[tuning]` is about."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from ...core.method import source
from ...training.fit import cosine
from .defense import Tuning


class Plain(Tuning):
    """A defense with the field's fine-tuning, whose length, rate and batch are no part of it.

    A grid's `[tuning]` sets them. Other defenses keep what their authors chose.
    """

    final_lr: float = Field(
        0.0,
        ge=0,
        description="learning rate at the end of the cosine schedule",
        json_schema_extra=source("BackdoorBench: 0; FMP's released code: 1e-4"),
    )

    def declaration(self) -> dict[str, Any]:
        """Its name and every field, but a `final_lr` of 0: so identities of results stay."""
        told = super().declaration()
        if not self.final_lr:
            del told["final_lr"]
        return told

    def falling(self, step: int, steps: int) -> float:
        """The share of the learning rate before `step` of `steps`: a cosine down to `final_lr`."""
        end = self.final_lr / self.lr
        return end + (1 - end) * cosine(step, steps)

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if self.final_lr > self.lr:
            raise ValueError("final_lr is the end of the schedule, so it cannot be above lr")
        return self
