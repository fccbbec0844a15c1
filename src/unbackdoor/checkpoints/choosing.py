"""The architecture of weights that do not say it: known networks with just these tensors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import models
from ..core.errors import CheckpointError, UnbackdoorError, UnbackdoorWarning, listed
from ..core.spec import Spec
from ..models import Fit
from .candidates import Candidate
from .fitting import leading

TRIED = 5
"""So many of the state dicts in a file are looked at: the most likely come first."""

TRIED_SIDE = 64
"""Pixels a side of the image that tells two networks apart, where they take any size."""


def choose(path: Path, found: Sequence[Candidate]) -> Fit:
    """The known network that the first weights of `found` which are known are of.

    Ours and torchvision's come before timm's. Where several fit, the one with the shortest name if
    all compute the same. Raises `CheckpointError` where none fits, or several that differ.
    """
    parts = [part for one in found[:TRIED] for part in leading(one.weights)]
    for weights in parts:
        if fits := models.recognize(weights) or models.recognize_timm(weights):
            break
    else:
        fits = ()
    if not fits:
        raise CheckpointError(
            f"{path} does not say its architecture, and no known network has its tensors "
            "('unbackdoor inspect' shows them); give it: --arch NAME, or your own network by "
            "--arch mynet.py:Net"
        )
    fits = tuple(sorted(fits, key=lambda fit: (":" in fit.arch, len(fit.arch), fit.arch)))
    if len(fits) > 1 and (others := differing(fits, weights)):
        raise CheckpointError(
            f"{path} does not say its architecture; {fits[0].arch} and {listed(others)} have its "
            "tensors, but compute different things; say which it is (--arch)"
        )
    chosen = fits[0]
    same = f"; {listed(fit.arch for fit in fits[1:])} would compute the same" if fits[1:] else ""
    stem = " with its stem for small images" if chosen.options.get("cifar_stem") else ""
    warnings.warn(
        f"{path.name} does not say its architecture; its tensors are those of {chosen.arch}"
        f"{stem}{same} (--arch changes this)",
        UnbackdoorWarning,
        stacklevel=3,
    )
    return chosen


def differing(fits: Sequence[Fit], weights: Mapping[str, Tensor]) -> list[str]:
    """Those of `fits` that give other outputs than the first one, on one image of noise."""
    first = _outputs(fits[0], weights)
    others = []
    for fit in fits[1:]:
        found = _outputs(fit, weights)
        if first is None or found is None or not torch.allclose(first, found, 1e-3, 1e-4):
            others.append(fit.arch)
    return others


def _outputs(fit: Fit, weights: Mapping[str, Tensor]) -> Tensor | None:
    """What the network gives for noise; None where it cannot take an image of any size tried."""
    try:
        net = models.bare(fit.arch, fit.classes, fit.options).eval()
        net.load_state_dict({n: t.float() for n, t in _named(fit.arch, weights).items()}, False)
    except (UnbackdoorError, RuntimeError):
        return None
    sides = models.told_size(net) or models.usual_size(net) or (TRIED_SIDE, TRIED_SIDE)
    noise = torch.rand(1, 3, *sides, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            found: Tensor = net(noise)
    except Exception:  # noqa: BLE001 - foreign code; then it is not shown to be the same
        return None
    return found


def _named(arch: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {models.renamed(arch, name): tensor for name, tensor in weights.items()}


def views(arch: str, found: Sequence[Candidate]) -> list[Mapping[str, Tensor]]:
    """The weights of each of `found` by the names that `arch` has, with and without prefixes."""
    return [_named(arch, part) for one in found[:TRIED] for part in leading(one.weights)]


def count_classes(spec: Spec, views: Sequence[Mapping[str, Tensor]]) -> int | None:
    """How many classes the weights are for, by the last layer; None where they do not fit."""
    for weights in views:
        told = models.count_classes(spec.arch, spec.options, weights)
        if told is not None:
            return told
    try:
        net = models.bare(spec.arch, 1, spec.options)
    except UnbackdoorError:
        return None
    # A network that takes no number of classes has the one that it is written with.
    last = [module for module in net.modules() if isinstance(module, nn.Linear)]
    return last[-1].out_features if ":" in spec.arch and last else None
