"""Ridge: every layer keeps of its weights what clean images show a need for."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..channels import find_layers
from ..defense import Defense, Repair
from ..errors import ModelError
from ..images import Images, to_float
from ..measure import accuracy
from ..modules import in_mode
from ..run import Run

SHRINKAGES = (0.003, 0.01, 0.03, 0.1, 0.2, 0.4)


class Ridge(Defense):
    """Solves each convolution again by ridge regression on what clean images put into it.

    A backdoor lives in what clean images leave idle: directions of a layer's input in which they
    hardly vary, where any weight is free. With the second moments C = E[p p'] of the layer's input
    patches p over clean images `[n, c, h, w]`, the weights W become the minimum of
    E |W' p - W p|^2 + shrink * mean(diag C) * |W'|^2, that is W C (C + shrink * mean(diag C) I)^-1:
    directions that clean images use stay, idle ones fade. Closed form, one pass over the images,
    no training, no label of a stamped image.

    `shrink` is the largest of a fixed list that costs the images held out for it at most `allowed`
    of accuracy, unless it is given. Grouped convolutions and MLP units are left as they are.
    """

    paper: ClassVar[str] = (
        "ours; ridge regression: Hoerl, Kennard, Technometrics 1970; akin in spirit to capacity "
        "pruning (CLP, Zheng et al. 2022, arXiv 2208.03111) and MNP (Li et al. 2024, 2405.17750)"
    )
    limits: ClassVar[str] = (
        "narrow networks, whose backdoor shares its directions with clean features: on a victim of "
        "a quarter of the usual width a blended trigger survives at any shrinkage that keeps the "
        "accuracy"
    )

    shrink: float | None = Field(None, gt=0, description="ridge, of the mean second moment")
    allowed: float = Field(0.01, ge=0, le=1, description="accuracy that choosing shrink may cost")
    images: int = Field(1000, ge=1, description="clean images that show what is needed, at most")
    patches: int = Field(64, ge=1, description="input patches taken of each image and layer")

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model` with every plain convolution's weights shrunk."""
        rng = run.rng("ridge")
        judged, shown = clean.split(max(1, len(clean) // 5), rng)
        shown = shown.sample(self.images, rng)
        moments = self._moments(model, shown, run, rng)
        if self.shrink is not None:
            shrink_(model, moments, self.shrink)
            return Repair(model, notes={"shrink": self.shrink})
        best, chosen = model, 0.0
        floor = accuracy(model, judged, run).value - self.allowed
        for shrinkage in SHRINKAGES:
            trial = copy.deepcopy(model)
            shrink_(trial, moments, shrinkage)
            if accuracy(trial, judged, run).value < floor:
                break
            best, chosen = trial, shrinkage
        return Repair(best, notes={"shrink": chosen})

    def _moments(
        self, model: nn.Module, shown: Images, run: Run, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """The second moments float32 `[d, d]` of each plain convolution's input patches."""
        convs = _plain_convolutions(model, to_float(shown.pixels[:2]))
        totals: dict[str, Tensor] = {}

        def take(name: str, conv: nn.Conv2d, inputs: Tensor) -> None:
            found = sampled_patches(conv, inputs, self.patches, rng)
            moments = found.T @ found / (len(shown) * self.patches)
            totals[name] = totals[name] + moments if name in totals else moments

        handles = [
            conv.register_forward_pre_hook(lambda conv, args, name=name: take(name, conv, args[0]))
            for name, conv in convs.items()
        ]
        try:
            with (
                run.stage("moments", len(shown)) as advance,
                in_mode(model, train=False),
                torch.no_grad(),
            ):
                for x, _ in shown.batches(100):
                    model(x.to(run.device))
                    advance(len(x))
        finally:
            for handle in handles:
                handle.remove()
        return totals


def _plain_convolutions(model: nn.Module, x: Tensor) -> dict[str, nn.Conv2d]:
    found = {layer.name: model.get_submodule(layer.name) for layer in find_layers(model, x)}
    plain = {
        name: module
        for name, module in found.items()
        if isinstance(module, nn.Conv2d) and module.groups == 1
    }
    if not plain:
        raise ModelError(f"{type(model).__name__} has no plain convolution to solve again")
    return plain


def sampled_patches(conv: nn.Conv2d, inputs: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """What `conv` multiplies its kernels with at random places: `[n * count, in * kh * kw]`.

    `inputs` is `[n, in, h, w]`; each image gives `count` patches, drawn with replacement.
    """
    sides = conv._reversed_padding_repeated_twice
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    windows = F.pad(inputs, sides, mode=mode)
    for axis, (size, stride, gap) in enumerate(
        zip(conv.kernel_size, conv.stride, conv.dilation, strict=True), start=2
    ):
        windows = windows.unfold(axis, gap * (size - 1) + 1, stride)[..., ::gap]
    n, _, rows, columns = windows.shape[:4]
    place = torch.randint(0, rows * columns, (n, count), generator=rng).to(inputs.device)
    image = torch.arange(n, device=inputs.device)[:, None].expand_as(place)
    return windows[image, :, place // columns, place % columns].flatten(2).flatten(0, 1)


@torch.no_grad()
def shrink_(model: nn.Module, moments: Mapping[str, Tensor], shrink: float) -> None:
    """Replaces the weights W of each layer by W C (C + shrink * mean(diag C) I)^-1, in place."""
    for name, moment in moments.items():
        conv = model.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        ridge = shrink * moment.diagonal().mean().clamp_min(1e-12)
        weights = conv.weight.flatten(1)
        factor = torch.linalg.cholesky(moment + ridge * torch.eye(len(moment)).to(moment))
        solved = torch.cholesky_solve(moment @ weights.T, factor).T
        conv.weight.copy_(solved.view_as(conv.weight))
