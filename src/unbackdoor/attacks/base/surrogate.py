"""The attacker's own clean model, on which triggers are learned."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...core.images import Images
from ...core.recall import Learned, recall
from ...core.run import Run
from ...training.fit import fit


def surrogate(
    model: nn.Module, train: Images, run: Run, settings: Mapping[str, Any], epochs: int
) -> nn.Module:
    """A clean model of the architecture of `model`, trained on `train` for `epochs`.

    It starts from weights of its own, not from those that the victim starts from. `settings` are
    those of `fit`. With 0 `epochs` it is a copy of `model` as given, which should be a trained one.
    """
    if not epochs:
        return copy.deepcopy(model).to(run.device)
    clean = fresh_copy(model, run, "surrogate").to(run.device)
    wanted = {**settings, "epochs": epochs}

    def learn() -> Learned:
        fit(clean, train, run, stage="clean model", **wanted)
        return clean.state_dict()

    clean.load_state_dict(recall(model, run, "surrogate", wanted, train, learn))
    return clean


def fresh_copy(model: nn.Module, run: Run, name: str) -> nn.Module:
    """A copy of `model` with initial weights drawn anew for the purpose called `name`.

    Modules draw their weights as they do when they are made (`reset_parameters`). Other
    parameters of two or more axes, of which nothing says how they are drawn, get their own entries
    in another order: the same distribution. The frozen constants of a model stay.
    """
    found = copy.deepcopy(model)
    with run.isolated(f"{name}/weights"), torch.no_grad():
        for module in found.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
                continue
            for parameter in module.parameters(recurse=False):
                if parameter.ndim > 1:
                    parameter.copy_(_shuffled(parameter))
    return found


def _shuffled(values: Tensor) -> Tensor:
    order = torch.randperm(values.numel()).to(values.device)
    return values.flatten()[order].view_as(values)
