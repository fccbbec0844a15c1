"""CleanLabelAttack: what attacks share that change no label, and so poison one class alone."""

from __future__ import annotations

import warnings
from typing import ClassVar

from pydantic import Field

from ...core.errors import ParameterError, UnbackdoorWarning
from ...core.images import Images
from ...core.method import source
from .attack import Attack

SMALL = 0.5
"""A target class with less than this share of an average class is a poor choice."""


class CleanLabelAttack(Attack):
    """An attack that poisons images of the target class and changes no label.

    How many follows from `count`, else from `rate` (a share of the whole training set, as in the
    other attacks), else from `class_rate` (a share of the target class).
    """

    clean_label: ClassVar[bool] = True

    rate: float | None = Field(  # type: ignore[assignment]
        None,
        gt=0,
        le=1,
        description="poisoning rate of the whole training set, in place of class_rate",
        json_schema_extra=source("BackdoorBench: the meaning of its pratio"),
    )
    class_rate: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of the target class that is poisoned",
        json_schema_extra=source("BackdoorBench for CTRL: 0.05 of all, half of one of ten classes"),
    )

    def wanted(self, train: Images) -> int:
        """How many images are to be poisoned, at least one; not more than there are.

        Raises `ParameterError` for a `rate` of more images than the target class has. Warns where
        the target class is much smaller than the others.
        """
        there = len(self.stampable(train.labels))
        if there < SMALL * len(train) / len(train.classes):
            warnings.warn(
                f"class {self.goal_class()} has {there} of {len(train)} training images, less than "
                "half of an average class: a clean-label attack on it has few images to poison; "
                "choose a larger one (-p target=K)",
                UnbackdoorWarning,
                stacklevel=4,
            )
        if self.rate is None:
            return max(1, round(self.class_rate * there))
        wanted = max(1, round(self.rate * len(train)))
        if wanted > there:
            raise ParameterError(
                f"a rate of {self.rate:g} is {wanted} of {len(train)} training images, but only "
                f"the {there} of class {self.goal_class()} may be poisoned; lower it, or give a "
                "class_rate"
            )
        return wanted
