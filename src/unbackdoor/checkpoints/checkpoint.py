"""Models on disk: read from safetensors, state dicts and BackdoorBench results; written whole.

No file is ever run. A file may name an architecture of ours, torchvision's or timm's; code of the
person's own (`package.module:factory`) is only called when the person names it.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

from .. import models
from ..core.errors import (
    CheckpointError,
    ParameterError,
    RefusedFileError,
    UnbackdoorWarning,
)
from ..core.files import write_whole
from ..core.spec import Spec
from . import model_files
from .candidates import Candidate
from .fitting import asked, leading, matched, notes
from .untrusted import one_line

MOST_CHANNELS = 1000
MOST_PIXELS = 4096

HARMLESS_OPTIONS = frozenset(
    (
        *("attention_dropout", "cifar_stem", "drop_path_rate", "drop_rate", "dropout"),
        *("global_pool", "groups", "growth_rate", "image_size", "img_size", "in_chans"),
        *("patch_size", "stochastic_depth_prob", "transform_input", "width_mult"),
        *("width_per_group", "zero_init_residual"),
    )
)
"""The options of torchvision's and timm's networks that a file may set; a person may set any."""


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
    """The model in a file of safetensors, torch or TorchScript: float32, on the CPU, in eval mode.

    What is given wins over what the file tells: `arch` as in `Spec`, `classes` a count or
    names, `mean` and `std` for inputs in [0, 1], `options` of the architecture, `size`
    (height, width) of its images. `weights` says which state dict is meant where a file holds
    several, such as `state_dict_ema`; by default the first that fits, and a warning names the
    others. Raises `CheckpointError` for a file that cannot be read or does not fit, and
    `RefusedFileError` for one whose weights only code could make or that names code to run.
    """
    path = Path(path)
    stored = model_files.read(path)
    told = stored.header
    name = arch or _trusted_arch(path, told.arch)
    with one_line(path):
        found = asked(stored.candidates, weights)
    chosen = {
        **_inferred(name, found),
        **_trusted_options(
            path, name, told.options if name == told.arch else {}, set(options or {})
        ),
        **(options or {}),
    }
    spec = Spec(
        name,
        _classes(path, classes, told.classes),
        *_scale(path, mean or told.mean, std or told.std, chosen),
        chosen,
        _size(path, size or told.size),
    )
    for note in stored.notes if mean is None and std is None else ():
        warnings.warn(note, UnbackdoorWarning, stacklevel=2)
    model = _built(path, spec, found, stored.foreign)
    _check_channels(path, model)
    return model.eval()


def _trusted_arch(path: Path, arch: str | None) -> str:
    if arch is None:
        raise CheckpointError(f"{path} does not say its architecture; give it (--arch)")
    kind, colon, _ = arch.partition(":")
    if colon and (kind != "timm" or arch.count(":") > 1):
        raise RefusedFileError(
            f"{path} was refused: it asks for the architecture {arch[:80]!r}, which could "
            "run code; if it is your own, name it yourself (--arch)"
        )
    return arch


def _trusted_options(
    path: Path, arch: str, told: Mapping[str, Any], given: set[str]
) -> dict[str, Any]:
    """The options that the file tells and the person does not, if they cannot do harm."""
    allowed = models.options(arch) if arch in models.own() else HARMLESS_OPTIONS
    for option in told:
        if option not in allowed and option not in given:
            raise RefusedFileError(
                f"{path} was refused: it sets the option {option[:80]!r} of {arch}, which a file "
                "may not; set it yourself (--model-option) if you trust it"
            )
    return {option: value for option, value in told.items() if option not in given}


def _inferred(arch: str, found: Sequence[Candidate]) -> dict[str, Any]:
    for weights in (part for one in found for part in leading(one.weights)):
        try:
            return models.infer(arch, weights)
        except (LookupError, ValueError):
            continue
    # The weights are of another network: comparing names and shapes says so better.
    return {}


def _classes(
    path: Path, given: int | Sequence[str] | None, told: Sequence[str] | None
) -> tuple[str, ...]:
    if isinstance(given, int):
        if not 1 <= given <= model_files.MOST_CLASSES:
            raise ParameterError(f"classes must be a count of at least 1 or names, got {given}")
        if told and len(told) == given:
            return tuple(told)
        return tuple(str(label) for label in range(given))
    if given or told:
        return tuple(given or told or ())
    raise CheckpointError(
        f"{path} does not say its classes; give their number or names (--classes)"
    )


def _scale(
    path: Path,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    options: Mapping[str, Any],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if mean is None and std is None:
        warnings.warn(
            f"{path.name} does not say how its inputs are normalised; using mean 0 and std 1 "
            "(--mean, --std)",
            UnbackdoorWarning,
            stacklevel=3,
        )
        channels = options.get("in_channels", options.get("in_chans", 3))
        if not isinstance(channels, int) or not 1 <= channels <= MOST_CHANNELS:
            raise ParameterError(f"{path.name}: {channels} is no number of input channels")
        return (0.0,) * channels, (1.0,) * channels
    if mean is None or std is None:
        raise ParameterError(f"{path.name}: mean and std belong together; only one is given")
    if len(mean) != len(std) or not all(map(math.isfinite, mean)):
        raise ParameterError(f"mean and std must be as many finite numbers, got {mean} and {std}")
    if not all(math.isfinite(value) and value > 0 for value in std):
        raise ParameterError(f"std must be above 0, got {list(std)}")
    return tuple(map(float, mean)), tuple(map(float, std))


def _size(path: Path, size: Sequence[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    if len(size) != 2 or not all(1 <= side <= MOST_PIXELS for side in size):
        raise ParameterError(
            f"{path.name}: size must be a height and a width from 1 to {MOST_PIXELS} pixels, got "
            f"{list(size)}"
        )
    return size[0], size[1]


def _built(
    path: Path, spec: Spec, found: Sequence[Candidate], foreign: Sequence[str]
) -> models.Normalized:
    """The network of `spec` with the weights that fit it in names, shapes and values."""
    if spec.arch in models.names() or spec.arch.startswith("timm:"):
        # Shapes first, without memory: a small file may claim a huge network. A few networks
        # cannot be built so; they are checked below only.
        with suppress(ParameterError), torch.device("meta"):
            matched(path, spec, models.create(spec).net, found)
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
    weights = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.net.state_dict().items()
    }
    write_whole(path, to_bytes(weights, texts))


def provenance(path: Path | str) -> dict[str, Any]:
    """What a `.safetensors` file of ours tells of its making; empty if it tells nothing."""
    return model_files.read_header(Path(path)).provenance
