"""TrojanNN: a patch that drives the neurons behind the target."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ..core.errors import ModelError, ParameterError
from ..core.images import Images
from ..core.method import source
from ..core.modules import frozen, in_mode
from ..core.recall import Learned
from ..core.run import Run
from .base.attack import NOTHING, Attack, Stamp, needed
from .base.patterns import scaled


class TrojanNN(Attack):
    """Puts a square patch into the bottom right, made to drive the best connected `neurons`.

    Images are `[n, c, h, w]` in [0, 1], of the size of the training images. The neurons are the
    inputs of the last linear layer with the largest sum of absolute weights to all classes, on a
    surrogate, a clean model with initial weights of its own trained for `clean_epochs` (0: the
    model as given, which is then retrained as in the paper). On a grey image the patch brings them
    as near to `value` as it can. Departures: with `clean_epochs` the victim is trained from the
    given weights, not from the surrogate; the training images are at hand and need not be reverse
    engineered.
    """

    paper: ClassVar[str] = (
        "Liu, Ma, Aafer, Lee, Zhai, Wang, Zhang: Trojaning Attack on Neural Networks, NDSS 2018"
    )
    limits: ClassVar[str] = "the patch can be seen; needs a model that ends in a linear layer"

    size: int = Field(
        6,
        ge=1,
        description="side of the patch, pixels at 32 x 32",
        json_schema_extra=source(
            "ours: 36 pixels, 3.5 % of 32 x 32, which is enough to plant it; the paper's cover 4 "
            "to 10 %"
        ),
    )
    margin: int = Field(
        1,
        ge=0,
        description="distance from the edges, pixels at 32 x 32",
        json_schema_extra=source("ours: so that a crop of one pixel leaves the patch whole"),
    )
    neurons: int = Field(
        2,
        ge=1,
        description="neurons that the patch drives",
        json_schema_extra=source("BackdoorBench: the two best connected"),
    )
    value: float = Field(
        100.0,
        gt=0,
        description="activation that the neurons are driven to",
        json_schema_extra=source("BackdoorBench: 100"),
    )
    steps: int = Field(
        300,
        ge=1,
        description="steps of the patch",
        json_schema_extra=source("ours: enough for the patch to settle"),
    )
    pace: float = Field(
        0.05,
        gt=0,
        description="step of Adam, pixels in [0, 1]",
        json_schema_extra=source("ours: Adam's step, so that a pixel can cross its range"),
    )
    clean_epochs: int = Field(
        10,
        ge=0,
        description="epochs that the clean model is trained; 0: the model as given",
        json_schema_extra=source("ours: enough for a surrogate that reads most images"),
    )

    def learn(self, model: nn.Module, train: Images, run: Run) -> Learned:
        """The `patch` `[c, side, side]`, whose side grows with the image."""
        grey = torch.full((1, *train.shape), 0.5, device=run.device)
        side = scaled(self.size, *train.shape[1:])
        patch = torch.rand(train.shape[0], side, side, generator=run.rng("trojannn"))
        # A patch or a network that does not fit is told of before a clean model is trained.
        self._put(grey, patch.to(run.device))
        _last_linear(copy.deepcopy(model).to(run.device), train, run)
        clean = self.surrogate(model, train, run, self.clean_epochs)
        last = _last_linear(clean, train, run)
        neurons = last.weight.abs().sum(0).topk(min(self.neurons, last.in_features)).indices
        patch = patch.to(run.device).requires_grad_()
        adam = torch.optim.Adam([patch], lr=self.pace)
        with (
            in_mode(clean, train=False),
            frozen(clean),
            _inputs_of(last) as seen,
            run.stage("trigger", self.steps) as done,
        ):
            for _ in range(self.steps):
                adam.zero_grad()
                clean(self._put(grey, patch))
                short = (seen[0][:, neurons] - self.value).square().mean()
                short.backward()  # type: ignore[no-untyped-call]
                adam.step()
                patch.data.clamp_(0, 1)
                done(1)
        return {"patch": patch.detach().cpu()}

    def trigger(self, learned: Learned = NOTHING) -> Stamp:
        """Puts the patch in its place."""
        return lambda x: self._put(x, needed(learned, "patch").to(x))

    def _put(self, x: Tensor, patch: Tensor) -> Tensor:
        channels, height, width = x.shape[1:]
        side, margin = patch.shape[-1], scaled(self.margin, height, width)
        fits = side == scaled(self.size, height, width) and side + margin <= min(height, width)
        if channels != len(patch) or not fits:
            raise ParameterError(
                f"a patch {list(patch.shape)} with a margin of {margin} does not fit into "
                f"images {list(x.shape[1:])}"
            )
        bottom, right = height - margin, width - margin
        stamped = x.clone()
        stamped[:, :, bottom - side : bottom, right - side : right] = patch
        return stamped


@contextmanager
def _inputs_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Yields a list that holds what last went into `layer`."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, given: seen.__setitem__(slice(None), given))
    try:
        yield seen
    finally:
        hook.remove()


def _last_linear(model: nn.Module, train: Images, run: Run) -> nn.Linear:
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    called: list[nn.Linear] = []
    hooks = [layer.register_forward_pre_hook(lambda at, _: called.append(at)) for layer in layers]
    try:
        with in_mode(model, train=False), torch.no_grad():
            model(torch.zeros(1, *train.shape, device=run.device))
    finally:
        for hook in hooks:
            hook.remove()
    if not called or called[-1].out_features != len(train.classes):
        raise ModelError(
            f"trojannn needs a model that ends in a linear layer with {len(train.classes)} outputs"
        )
    return called[-1]
