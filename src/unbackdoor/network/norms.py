"""The norms of any network, as places to learn masks on and to prune channels at."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from ..core.errors import ModelError
from ..core.images import Images
from ..core.measure import accuracy
from ..core.modules import called, pass_with
from ..core.run import Run
from .channels import Mask

CUTS = 20
"""Thresholds are tried in steps of 1/20, as by the authors of ANP and RNP."""

SILENT = 1e-4
"""A channel whose variance is below this share of its layer's mean is taken to be silent."""

_NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)


def find_norms(model: nn.Module, x: Tensor, who: str) -> tuple[str, ...]:
    """The paths of the norms that a pass on `x` calls, in call order, each once.

    Only norms with a weight and a bias per channel count. Raises `ModelError`, in the name of
    `who`, where there is none.
    """
    modules = dict(model.named_modules())
    found = tuple(
        name
        for name in called(model, x)
        if isinstance(modules[name], _NORMS) and _has_channels(modules[name])
    )
    if not found:
        raise ModelError(
            f"{who} needs norms with a weight and a bias per channel; "
            f"{type(model).__name__} has none"
        )
    return found


def keeps_statistics(model: nn.Module) -> bool:
    """Whether a batch norm of `model` holds the statistics of what it was trained on."""
    return any(isinstance(m, _BatchNorm) and m.running_mean is not None for m in model.modules())


def strangeness(model: nn.Module, x: Tensor) -> tuple[float, float] | None:
    """How far the images `x` `[n, c, h, w]` are from what the batch norms of `model` learned.

    (mean distance of a channel's mean, in its standard deviations; mean distance of the logarithm
    of its variance), over all channels of all batch norms; None where none keeps statistics, or no
    channel ever moved.
    """
    found: list[Tensor] = []

    def compare(norm: nn.Module, args: tuple[Tensor, ...], _: object) -> None:
        values = args[0].float().transpose(0, 1).flatten(1)
        mean, var = norm.running_mean, norm.running_var
        assert isinstance(mean, Tensor) and isinstance(var, Tensor)
        # A channel that hardly ever moved says nothing: any answer is far away.
        moves = var > SILENT * var.mean()
        if not bool(moves.any()):
            return
        away = (values.mean(1) - mean).abs() / var.clamp_min(1e-12).sqrt()
        wider = (values.var(1).clamp_min(1e-12) / var.clamp_min(1e-12)).log().abs()
        found.append(torch.stack([away[moves].mean(), wider[moves].mean()]))

    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    handles = [
        norm.register_forward_hook(compare) for norm in norms if norm.running_mean is not None
    ]
    pass_with(handles, model, x)
    if not found:
        return None
    away, wider = torch.stack(found).mean(0).tolist()
    return away, wider


def _has_channels(norm: nn.Module) -> bool:
    return all(
        isinstance(part, Tensor) and part.ndim == 1
        for part in (getattr(norm, "weight", None), getattr(norm, "bias", None))
    )


def affine(model: nn.Module, norm: str) -> tuple[Tensor, Tensor]:
    """The weight and the bias `[channels]` of the norm at this path."""
    module = model.get_submodule(norm)
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
    return weight, bias


class MaskedNorms(nn.Module):
    """A frozen copy of `model` whose norms' weights are multiplied by masks, all 1 at first.

    `masks` holds one `[channels]` for each of `norms`: the only parameters that train. Where
    `noise` is given, a (weight noise, bias noise) for each norm, the weights are multiplied by
    mask + weight noise and the biases by 1 + bias noise.
    """

    def __init__(self, model: nn.Module, norms: Sequence[str]) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.norms = tuple(norms)
        weights = [affine(model, norm)[0] for norm in norms]
        self.masks = nn.ParameterList([nn.Parameter(torch.ones_like(w)) for w in weights])

    def forward(self, x: Tensor, noise: Sequence[tuple[Tensor, Tensor]] | None = None) -> Tensor:
        """Images `[n, c, h, w]` in [0, 1] -> logits `[n, classes]`."""
        changed = {}
        for index, (norm, mask) in enumerate(zip(self.norms, self.masks, strict=True)):
            weight, bias = affine(self.model, norm)
            on_weight, on_bias = noise[index] if noise else (0.0, 0.0)
            changed[f"{norm}.weight"] = (mask + on_weight) * weight
            changed[f"{norm}.bias"] = (1 + on_bias) * bias
        logits: Tensor = functional_call(self.model, changed, (x,))
        return logits

    @torch.no_grad()
    def clip_(self) -> None:
        """Brings the masks back into [0, 1]."""
        for mask in self.masks:
            mask.clamp_(0, 1)

    def learned(self) -> dict[str, Tensor]:
        """The masks by norm, on the CPU."""
        return {
            norm: mask.detach().cpu() for norm, mask in zip(self.norms, self.masks, strict=True)
        }


def below(masks: Mapping[str, Tensor], cut: float) -> dict[str, Tensor]:
    """True for every channel whose mask is below `cut`."""
    return {norm: mask < cut for norm, mask in masks.items()}


def outliers(score: Tensor, u: float) -> Tensor:
    """True for every channel whose `score` `[channels]` is above mean + u standard deviations."""
    if len(score) < 2:
        return torch.zeros_like(score, dtype=torch.bool)
    return score > score.mean() + u * score.std()


@torch.no_grad()
def silence_norms_(model: nn.Module, mask: Mask) -> None:
    """Makes the masked channels of these norms put out exactly 0, in train and in eval mode.

    Not for good: fine-tuning lets them grow back.
    """
    for norm, silent in mask.items():
        for tensor in affine(model, norm):
            tensor.masked_fill_(silent.to(tensor.device), 0)


def prune_below_(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    threshold: float | None,
    cost: float,
    held: Images,
    run: Run,
    cuts: Sequence[float] | None = None,
) -> tuple[dict[str, Tensor], float]:
    """Silences the norm channels whose mask is below `threshold`; returns which, and that.

    None: the last of the rising `cuts` (0.05, 0.1, ... 0.95) before the accuracy on `held` falls by
    more than `cost`.
    """
    if threshold is None:
        threshold = deepest_cut(
            model,
            lambda trial, cut: silence_norms_(trial, below(masks, cut)),
            cuts or [step / CUTS for step in range(1, CUTS)],
            cost,
            held,
            run,
        )
    pruned = below(masks, threshold)
    silence_norms_(model, pruned)
    return pruned, threshold


def deepest_cut(
    model: nn.Module,
    prune_: Callable[[nn.Module, float], object],
    cuts: Iterable[float],
    allowed: float,
    held: Images,
    run: Run,
) -> float:
    """The last of the rising `cuts` before the accuracy on `held` falls by more than `allowed`.

    `prune_` cuts a copy of `model` in place. 0 where even the first cut is too deep, or where
    nothing is held out.
    """
    if not len(held):
        return 0.0
    floor = accuracy(model, held, run).value - allowed
    deepest = 0.0
    for cut in cuts:
        trial = copy.deepcopy(model)
        prune_(trial, cut)
        if accuracy(trial, held, run).value < floor:
            break
        deepest = cut
    return deepest
