"""Ridge: every layer keeps of its weights what clean images show a need for."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..channels import Layer, find_layers
from ..defense import Defense, Repair
from ..errors import ModelError
from ..images import Images, to_float
from ..measure import accuracy
from ..modules import in_mode
from ..reverse import at_layer
from ..run import Run

SHRINKAGES = (0.01, 0.03, 0.1, 0.2, 0.4)


class Ridge(Defense):
    """Solves each convolution again by ridge regression on what clean images put into it.

    A backdoor lives in what clean images leave idle: directions of a layer's input in which they
    hardly vary, where any weight is free. Layer by layer in call order, with p the input patches
    of the layer over clean images `[n, c, h, w]` in the model as it was, q the same patches in the
    model as it is by now, and W the old weights, the new weights are the minimum over V of
    E |V q - W p|^2 + shrink * mean(diag E[q q']) * |V|^2:
    what clean images use stays, and makes up for what layers before lost; idle directions fade.
    Closed form: no gradient, no label but to measure the accuracy.

    `shrink` is the largest of a fixed list that costs the images held out for it at most `allowed`
    of accuracy, unless it is given. Grouped convolutions and MLP units are left as they are.
    """

    paper: ClassVar[str] = (
        "ours; ridge regression: Hoerl, Kennard, Technometrics 1970; akin in spirit to capacity "
        "pruning (CLP, Zheng et al. 2022, arXiv 2208.03111) and MNP (Li et al. 2024, 2405.17750)"
    )
    limits: ClassVar[str] = (
        "new, measured on few victims; in narrow networks, where the backdoor shares directions "
        "with clean features, a trigger can survive any shrinkage that keeps the accuracy"
    )

    shrink: float | None = Field(None, gt=0, description="ridge, of the mean second moment")
    allowed: float = Field(0.01, ge=0, le=1, description="accuracy that choosing shrink may cost")
    images: int = Field(1000, ge=1, description="clean images that show what is needed, at most")
    patches: int = Field(64, ge=1, description="input patches taken of each image and layer")

    def mend(self, model: nn.Module, clean: Images, run: Run) -> Repair:
        """`model` with the weights of every plain convolution solved again."""
        rng = run.rng("ridge")
        judged, shown = clean.split(max(1, len(clean) // 5), rng)
        shown = shown.sample(self.images, rng)
        if self.shrink is not None:
            model.load_state_dict(self._solved(model, shown, self.shrink, run).state_dict())
            return Repair(model, notes={"shrink": self.shrink})
        best, chosen = model, 0.0
        floor = accuracy(model, judged, run).value - self.allowed
        for shrink in SHRINKAGES:
            trial = self._solved(model, shown, shrink, run)
            if accuracy(trial, judged, run).value < floor:
                break
            best, chosen = trial, shrink
        model.load_state_dict(best.state_dict())
        return Repair(model, notes={"shrink": chosen})

    def _solved(self, model: nn.Module, shown: Images, shrink: float, run: Run) -> nn.Module:
        """A copy of `model` with every plain convolution solved again."""
        solved = copy.deepcopy(model)
        convolutions = _plain_convolutions(model, to_float(shown.pixels[:2]))
        with (
            run.stage("ridge", len(convolutions)) as advance,
            in_mode(model, train=False),
            in_mode(solved, train=False),
            torch.no_grad(),
        ):
            for layer in convolutions:
                old, new = (m.get_submodule(layer.name) for m in (model, solved))
                assert isinstance(old, nn.Conv2d) and isinstance(new, nn.Conv2d)
                weights = old.weight.flatten(1)
                moments = torch.zeros(2 * [weights.shape[1]], device=run.device)
                wanted = torch.zeros_like(weights)
                for part, (x, _) in enumerate(shown.batches(100)):
                    x = x.to(run.device)
                    p, q = (
                        sampled_patches(conv, _inputs(m, layer, x, run), self.patches, rng)
                        for m, conv in ((model, old), (solved, new))
                        for rng in [run.rng(f"{layer.name}/{part}")]
                    )
                    moments += q.T @ q
                    wanted += (p @ weights.T).T @ q
                new.weight.copy_(ridge(moments, wanted, shrink).view_as(new.weight))
                advance(1)
        return solved


def _inputs(model: nn.Module, layer: Layer, x: Tensor, run: Run) -> Tensor:
    with run.autocast():
        return at_layer(model, layer, x)[0].float()


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


def _plain_convolutions(model: nn.Module, x: Tensor) -> list[Layer]:
    found = [
        layer
        for layer in find_layers(model, x)
        if isinstance(conv := model.get_submodule(layer.name), nn.Conv2d) and conv.groups == 1
    ]
    if not found:
        raise ModelError(f"{type(model).__name__} has no plain convolution to solve again")
    return found


def ridge(moments: Tensor, wanted: Tensor, shrink: float) -> Tensor:
    """The V `[c, d]` that minimises E |V q - y|^2 + shrink * mean(diag E[q q']) * |V|^2.

    `moments` is E[q q'] `[d, d]`, `wanted` E[y q'] `[c, d]`, both up to one common factor.
    """
    weight = shrink * moments.diagonal().mean().clamp_min(1e-12)
    factor = torch.linalg.cholesky(moments + weight * torch.eye(len(moments)).to(moments))
    return torch.cholesky_solve(wanted.T, factor).T
