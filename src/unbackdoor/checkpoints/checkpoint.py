"""Models on disk: read from files and folders as people save them; written whole.

No file is ever run. A file may name an architecture of ours, torchvision's or timm's; code of the
person's own (`package.module:factory`) is only called when the person names it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

from .. import models
from ..core.errors import (
    CheckpointError,
    ParameterError,
    UnbackdoorWarning,
)
from ..core.files import write_whole
from ..core.foreign import told_as
from ..core.spec import Spec
from . import choosing, claims, hub, model_files
from .candidates import Candidate
from .fitting import asked, matched, notes
from .untrusted import one_line


def load(
    path: Path | str,
    *,
    arch: str | None = None,
    classes: int | Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    options: Mapping[str, Any] | None = None,
    size: tuple[int, int] | None = None,
    weights: str | None = None,
) -> models.Normalized:
    """The model in a file of safetensors, torch or TorchScript, or in a folder of the hub.

    It is float32, on the CPU, in eval mode. What is given wins over what the file tells: `arch` as
    in `Spec`, `classes` a count or names, `mean` and `std` for inputs in [0, 1], `options` of the
    architecture, `size` (height, width) of its images. `weights` says which state dict is meant
    where a file holds several, such as `state_dict_ema`; by default the first that fits, and a
    warning names the others. Raises `CheckpointError` for a file that cannot be read or does not
    fit, and `RefusedFileError` for one whose weights only code could make or that names code.
    """
    said = _Said(arch, classes, mean, std, options, size, weights)
    with told_as(CheckpointError, f"{path} cannot be read"):
        return _load(Path(path), said)


@dataclass(frozen=True)
class _Said:
    """What a person says of a model, as in `load`."""

    arch: str | None
    classes: int | Sequence[str] | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
    options: Mapping[str, Any] | None
    size: tuple[int, int] | None
    weights: str | None


def _load(path: Path, given: _Said) -> models.Normalized:
    arch, classes, mean, std = given.arch, given.classes, given.mean, given.std
    options, size, weights = given.options, given.size, given.weights
    stored = _read(path)
    told = stored.header
    with one_line(path):
        found = asked(stored.candidates, weights)
    count = None
    name = arch or claims.trusted_arch(path, told.arch)
    if name is None:
        fit = choosing.choose(path, found)
        name, count = fit.arch, fit.classes
    views = choosing.views(name, found)
    said = told.options if name == told.arch else {}
    chosen = {
        **_inferred(name, views),
        **claims.trusted_options(path, name, said, set(options or {})),
        **(options or {}),
    }
    scale = claims.scale(path, mean or told.mean, std or told.std, chosen)
    if not (classes or told.classes):
        bare = Spec(name, ("0",), *scale, chosen)
        with claims.held(path, found):
            count = count or choosing.count_classes(bare, found)
        if count is None:
            _built(path, bare, found, ())  # raises, and says what does not fit
        classes = claims.numbered(path, count)
    spec = Spec(name, claims.classes_of(path, classes, told.classes), *scale, chosen)
    for note in stored.notes if mean is None and std is None else ():
        warnings.warn(note, UnbackdoorWarning, stacklevel=2)
    if models.note(name):
        warnings.warn(f"{path.name}: {models.note(name)}", UnbackdoorWarning, stacklevel=2)
    model = _built(path, spec, found, stored.foreign)
    _check_channels(path, model)
    net = model.net
    sides = size or models.told_size(net) or told.size or models.usual_size(net)
    model.spec = replace(spec, size=claims.size_of(path, sides))
    return model.eval()


def _read(path: Path) -> model_files.Stored:
    """The contents of a model file, or of a folder of the hub."""
    folder = hub.folder_of(path)
    if folder and (folder == path or model_files.read(path).header.arch is None):
        return hub.read(folder)
    return model_files.read(path)


def _inferred(arch: str, views: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
    for weights in views:
        with suppress(LookupError, ValueError):
            return models.infer(arch, weights)
    # The weights are of another network: comparing names and shapes says so better.
    return {}


def _built(
    path: Path, spec: Spec, found: Sequence[Candidate], foreign: Sequence[str]
) -> models.Normalized:
    """The network of `spec` with the weights that fit it in names, shapes and values."""
    if spec.arch in models.names() or spec.arch.startswith(("timm:", "transformers:")):
        # Shapes first, without memory: a small file may claim a huge network. A few networks
        # cannot be built so; they are checked below only.
        with suppress(ParameterError), torch.device("meta"), claims.held(path, found):
            matched(path, spec, models.create(spec).net, found)
    with claims.held(path, found):
        model = models.create(spec)
    fit, others = matched(path, spec, model.net, found)
    loaded = {name: _float32(path, name, tensor) for name, tensor in fit.weights.items()}
    model.net.load_state_dict(loaded, strict=False)
    for note in notes(path, fit, others, foreign):
        warnings.warn(note, UnbackdoorWarning, stacklevel=3)
    return model.float()


def _float32(path: Path, name: str, tensor: Tensor) -> Tensor:
    """`tensor` in float32, or as it is if it counts something."""
    if not tensor.is_floating_point():
        return tensor
    tensor = tensor.to(torch.float32)
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(f"{path}: {name} holds values that are not finite (NaN or infinite)")
    return tensor


def _check_channels(path: Path, model: models.Normalized) -> None:
    given = len(model.spec.mean)
    if given not in (1, model.channels):
        raise ParameterError(
            f"{path.name} takes images of {model.channels} channels, but mean and std are given "
            f"for {given}"
        )


def save(model: models.Normalized, path: Path | str, provenance: Mapping[str, object]) -> None:
    """Writes `model` as safetensors, whole or not at all, with all that `load` needs to know.

    `provenance` is what the file tells of its making, as JSON values. Raises `OutputError` if the
    file cannot be written.
    """
    path, spec = Path(path), model.spec
    told: dict[str, object] = {
        "classes": spec.classes,
        "mean": spec.mean,
        "std": spec.std,
        "options": dict(spec.options),
        "size": spec.size,
        "provenance": dict(provenance),
    }
    texts = {"format": "pt", "arch": spec.arch, **{k: json.dumps(v) for k, v in told.items()}}
    theirs = models.stored_names(model.net)
    weights = {
        theirs.get(name, name): tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.net.state_dict().items()
    }
    write_whole(path, to_bytes(weights, texts))


def provenance(path: Path | str) -> dict[str, Any]:
    """What a `.safetensors` file of ours tells of its making; empty if it tells nothing."""
    return model_files.read_header(Path(path)).provenance
