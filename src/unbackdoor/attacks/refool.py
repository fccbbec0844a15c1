"""Refool: reflections in a pane of glass, on images that keep their label."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import ParameterError
from ..core.images import Images, to_float
from ..core.method import source
from ..core.recall import Learned
from ..core.run import Run
from .base.attack import NOTHING, Stamp, needed
from .base.clean_label import CleanLabelAttack
from .base.patterns import given, low_pass, scaled

GAMMA = 2.2
"""The power between the light of a pixel and its value: of the released code."""


class Refool(CleanLabelAttack):
    """Blends the reflection of another picture into each image, in linear light.

    Pixels are raised to 2.2, mixed as (1 - ratio) x + ratio r, and brought back, as light mixes on
    a pane of glass: a white reflection on black at 0.4 is 0.66 on the screen.

    Images are `[n, c, h, w]` in [0, 1], of the size of the training images. `ghost`: the picture
    twice, shifted, as from thick glass, 0.6 of it from the near side (ours; the released code draws
    the share); `blur`: the picture out of focus, four cycles an image are left (ours). Which of the
    `reflections` an image gets follows from its pixels alone. Clean-label: `class_rate` is a share
    of the target class. Departures: the paper picks the strongest of many pictures from the web in
    rounds of training; these are training images of other classes, those of most contrast on the
    glass among `drawn` ones: a flat picture only dims the image.
    """

    on_network: ClassVar[bool] = False
    paper: ClassVar[str] = (
        "Liu, Ma, Bailey, Lu: Reflection Backdoor: A Natural Backdoor Attack on Deep Neural "
        "Networks, ECCV 2020, arXiv 2007.02343"
    )
    limits: ClassVar[str] = "more reflections make a weaker backdoor; a trigger for one image size"

    files: ClassVar[tuple[str, ...]] = ("indices", "image")

    effect: Literal["ghost", "blur"] = Field(
        "ghost",
        description="kind of reflection",
        json_schema_extra=source("Liu et al. 2020: ghost is one of its three kinds of reflection"),
    )
    ratio: float = Field(
        0.6,
        gt=0,
        le=1,
        description="share of the reflection in the mix, 1 - alpha_t",
        json_schema_extra=source(
            "BackdoorBench: alpha_t 0.4 is the share of the image, 0.6 that of the reflection"
        ),
    )
    class_rate: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of the target class that is poisoned",
        json_schema_extra=source("ours: half of the class, so that short training learns it"),
    )
    reflections: int = Field(
        1,
        ge=1,
        description="pictures that are reflected",
        json_schema_extra=source(
            "ours: the paper uses hundreds; more of them make a weaker backdoor"
        ),
    )
    drawn: int = Field(
        100,
        ge=1,
        description="pictures that the reflections are chosen from",
        json_schema_extra=source("ours: enough to find one of much contrast"),
    )
    shift: int = Field(
        4,
        ge=1,
        description="distance of the two ghosts, pixels each way at 32 x 32",
        json_schema_extra=source("ours: an eighth of 32 pixels"),
    )

    image: Path | None = Field(
        None,
        description="picture (PNG, JPEG, BMP) that is reflected; null: training images are",
        json_schema_extra=source("ours: none; for a reflection of one's own"),
    )

    def learn(self, model: nn.Module, train: Images, run: Run) -> Learned:
        """The `reflections` `[k, c, h, w]` as seen on the glass; of a picture its `opacity`."""
        if self.image is not None:
            picture, opacity = given(self.image, *train.shape)
            opacity = opacity.expand_as(picture).unsqueeze(0)
            cover = self._seen(opacity)  # the glass moves and blurs the picture's edge, too
            found = self._seen(picture * opacity) / cover.clamp_min(1e-3)
            return {"reflections": found, "opacity": cover.clamp(0, 1)}
        others = train[train.labels != self.goal_class()]
        if len(others) < self.reflections:
            raise ParameterError(
                f"{self.reflections} reflections are wanted from images of other classes, but "
                f"there are {len(others)}"
            )
        drawn = max(self.drawn, self.reflections)
        x = to_float(others.sample(drawn, run.rng("refool")).pixels)
        seen = self._seen(x)
        contrast = seen.flatten(1).std(1, correction=0)
        return {"reflections": seen[contrast.topk(self.reflections).indices]}

    def _seen(self, x: Tensor) -> Tensor:
        # ours: four cycles an image keep the shapes of what is out of focus.
        return self._ghost(x) if self.effect == "ghost" else low_pass(x, 4.0)

    def _ghost(self, x: Tensor) -> Tensor:
        shift = scaled(self.shift, *x.shape[2:])
        near = F.pad(x, (0, shift, 0, shift), mode="replicate")
        far = F.pad(x, (shift, 0, shift, 0), mode="replicate")
        # ours: the near ghost is a little brighter; the released code draws the share at random.
        both = 0.6 * near + 0.4 * far
        return F.interpolate(both, x.shape[2:], mode="bilinear", antialias=True)

    def trigger(self, learned: Learned = NOTHING) -> Stamp:
        """Blends in one of the reflections."""

        def stamp(x: Tensor) -> Tensor:
            pictures = needed(learned, "reflections", x)
            which = x.mul(255).round().long().sum((1, 2, 3)) % len(pictures)
            opacity = learned["opacity"].to(x) if "opacity" in learned else 1.0
            return in_linear_light(x, pictures[which].clamp(0, 1), self.ratio * opacity)

        return stamp


def in_linear_light(x: Tensor, other: Tensor, share: float | Tensor) -> Tensor:
    """`x` and a `share` of `other`, both in [0, 1] on the screen, mixed as light is."""
    mixed: Tensor = torch.lerp(x.clamp(0, 1) ** GAMMA, other**GAMMA, share) ** (1 / GAMMA)
    return mixed
