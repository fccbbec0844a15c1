"""Models on disk: read from safetensors, state dicts and BackdoorBench results; written whole.

No file is ever run. A file may name an architecture of ours, torchvision's or timm's; code of the
person's own (`package.module:factory`) is only called when the person names it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from .. import models
from ..core.errors import (
    CheckpointError,
    ParameterError,
    UnbackdoorWarning,
    listed,
)
from ..core.files import write_whole
from ..core.spec import Spec
from ..network.inserts import reattach_
from . import choosing, claims, hub, model_files

PREFIXES = ("module.", "net.", "_orig_mod.")
"""What wrappers put before every name: data parallelism, `Normalized`, torch.compile."""


def load(
    path: Path | str,
    *,
    arch: str | None = None,
    classes: int | Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    options: Mapping[str, Any] | None = None,
    size: tuple[int, int] | None = None,
) -> models.Normalized:
    """The model in a `.safetensors`, `.pt` or `.pth` file: float32, on the CPU, in eval mode.

    What is given wins over what the file tells: `arch` as in `Spec`, `classes` a count or
    names, `mean` and `std` for inputs in [0, 1], `options` of the architecture, `size`
    (height, width) of its images. Raises `CheckpointError` for a file that cannot be read or does
    not fit, and `RefusedFileError` for one that would run code or names code to run.
    """
    path = Path(path)
    stored = _read(path)
    told, weights = stored.header, stored.weights
    for tensor_name, tensor in weights.items():
        _check_plain(path, tensor_name, tensor)
    count = None
    name = arch or claims.trusted_arch(path, told.arch)
    if name is None:
        fit = choosing.choose(path, choosing.bare_names(weights))
        name, count = fit.arch, fit.classes
    whole = bool((options or {}).get("aux_logits"))
    weights = choosing.named(path, name, weights, whole=whole)
    said = told.options if name == told.arch else {}
    chosen = {
        **_inferred(name, weights),
        **claims.trusted_options(path, name, said, set(options or {})),
        **(options or {}),
    }
    scale = claims.scale(path, mean or told.mean, std or told.std, chosen)
    if not (classes or told.classes):
        count = count or choosing.count_classes(Spec(name, ("",), *scale, chosen), weights)
        if count is None:
            _built(path, Spec(name, ("0",), *scale, chosen), weights)  # raises: says what is wrong
        classes = claims.numbered(path, count)
    spec = Spec(name, claims.classes_of(path, classes, told.classes), *scale, chosen)
    for note in stored.notes if mean is None and std is None else ():
        warnings.warn(note, UnbackdoorWarning, stacklevel=2)
    if models.note(name):
        warnings.warn(f"{path.name}: {models.note(name)}", UnbackdoorWarning, stacklevel=2)
    model = _built(path, spec, weights)
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


def _inferred(arch: str, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    try:
        return models.infer(arch, weights)
    except (LookupError, ValueError):
        # The weights are of another network: comparing names and shapes says so better.
        return {}


def _built(path: Path, spec: Spec, weights: Mapping[str, Tensor]) -> models.Normalized:
    """The network of `spec` with `weights`, which must fit it in names, shapes and values."""
    if spec.arch in models.names() or spec.arch.startswith(("timm:", "transformers:")):
        # Shapes first, without memory: a small file may claim a huge network. A few networks
        # cannot be built so; they are checked below only.
        with suppress(ParameterError), torch.device("meta"):
            _fitting(path, spec, models.create(spec).net, weights)
    model = models.create(spec)
    weights = _fitting(path, spec, model.net, weights)
    loaded = {name: _float32(path, name, tensor) for name, tensor in weights.items()}
    model.net.load_state_dict(loaded, strict=False)
    return model.float()


def _shortened(weights: Mapping[str, Tensor], expected: set[str]) -> Mapping[str, Tensor]:
    """`weights` without the prefixes that all their names share, until `expected` ones appear."""
    while not expected & weights.keys():
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in weights)), None)
        if prefix is None or not weights:
            break
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def _fitting(
    path: Path, spec: Spec, net: nn.Module, weights: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """`weights` by the names that `net` has; raises `CheckpointError` where they do not fit.

    `net` gains the inserts of a repair that `weights` are of.
    """
    weights = _shortened(weights, set(net.state_dict()))
    theirs = {stored: ours for ours, stored in models.stored_names(net).items()}
    weights = {theirs.get(name, name): tensor for name, tensor in weights.items()}
    reattach_(net, weights)
    expected = net.state_dict()
    missing = [n for n in expected if n not in weights and not n.endswith("num_batches_tracked")]
    unexpected = [name for name in weights if name not in expected]
    wrong = [n for n in expected if n in weights and weights[n].shape != expected[n].shape]
    if wrong and not missing and not unexpected:
        _check_classes(path, len(spec.classes), [(weights[n], expected[n]) for n in wrong])
    shapes = [f"{n} {_shape(weights[n])} instead of {_shape(expected[n])}" for n in wrong]
    parts = {"missing": missing, "unexpected": unexpected, "wrong shapes": shapes}
    told = "; ".join(f"{what}: {listed(names)}" for what, names in parts.items() if names)
    if told:
        raise CheckpointError(f"{path} does not fit {spec.arch}: {told}")
    return weights


def _check_classes(path: Path, count: int, wrong: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Raises if all that is `wrong` (found, expected) is the number of classes."""
    found = {
        found.shape[0] if found.ndim and expected.shape == (count, *found.shape[1:]) else None
        for found, expected in wrong
    }
    if len(found) == 1 and None not in found:
        raise CheckpointError(
            f"{path} is a model of {found.pop()} classes, not of the {count} wanted"
        )


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _check_plain(path: Path, name: str, tensor: Tensor) -> None:
    # Before anything is made in the size of a tensor: then the file itself is as large.
    if not model_files.plain(tensor) or tensor.is_complex():
        raise CheckpointError(f"{path}: {name} is not an ordinary tensor of real numbers")


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
