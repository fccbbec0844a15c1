"""What a file claims of its model, and what a person says of it: checked, none of it run."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from .. import models
from ..core.errors import CheckpointError, ParameterError, RefusedFileError, UnbackdoorWarning
from . import model_files
from .candidates import Candidate

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


ROOM_TENSORS, ROOM_NUMBERS = 1000, 2**27
"""Parameters and buffers, and numbers in them, that a network may have beyond those in its file."""


@contextmanager
def held(path: Path, found: Sequence[Candidate]) -> Iterator[None]:
    """Inside, building a network ends once it is far larger than any weights in the file.

    A header of a few bytes may claim a million layers. Raises `CheckpointError`.
    """
    sizes = [sum(tensor.numel() for tensor in one.weights.values()) for one in found]
    tensors = 2 * max((len(one.weights) for one in found), default=0) + ROOM_TENSORS
    numbers = 2 * max(sizes, default=0) + ROOM_NUMBERS

    def count(_: nn.Module, __: str, tensor: Tensor | None) -> None:
        nonlocal tensors, numbers
        tensors -= 1
        if tensor is not None and not tensor.is_meta:  # there numbers take no memory
            numbers -= tensor.numel()
        if tensors < 0 or numbers < 0:
            raise CheckpointError(f"{path} claims a far larger network than it holds weights for")

    handles = [
        register_module_parameter_registration_hook(count),
        register_module_buffer_registration_hook(count),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def trusted_arch(path: Path, arch: str | None) -> str | None:
    """The architecture that the file tells; None if it tells none."""
    kind, colon, _ = (arch or "").partition(":")
    if arch and colon and (kind not in ("timm", "transformers") or arch.count(":") > 1):
        raise RefusedFileError(
            f"{path} was refused: it asks for the architecture {arch[:80]!r}, which could "
            "run code; if it is your own, name it yourself (--arch)"
        )
    return arch


def trusted_options(
    path: Path, arch: str, told: Mapping[str, Any], given: set[str]
) -> dict[str, Any]:
    """The options that the file tells and the person does not, if they cannot do harm."""
    allowed: Collection[str] = HARMLESS_OPTIONS
    if arch in models.own():
        allowed = models.options(arch)
    elif arch.startswith("transformers:"):
        allowed = models.fields(arch)
    for option in told:
        if option not in allowed and option not in given:
            raise RefusedFileError(
                f"{path} was refused: it sets the option {option[:80]!r} of {arch}, which a file "
                "may not; set it yourself (--model-option) if you trust it"
            )
    return {option: value for option, value in told.items() if option not in given}


def numbered(path: Path, count: int | None) -> int:
    """`count`, with a warning that names are unknown; raises `CheckpointError` for none."""
    if not count:
        raise CheckpointError(
            f"{path} does not say its classes; give their number or names (--classes)"
        )
    warnings.warn(
        f"{path.name} does not say its classes; by its last layer there are {count}, and their "
        f"names are unknown: they are numbered 0 to {count - 1} (--classes)",
        UnbackdoorWarning,
        stacklevel=3,
    )
    return count


def classes_of(
    path: Path, given: int | Sequence[str] | None, told: Sequence[str] | None
) -> tuple[str, ...]:
    """The names of the classes: those given, else those told, else numbers."""
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


def scale(
    path: Path,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    options: Mapping[str, Any],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) a channel; 0 and 1, with a warning, where nobody says them."""
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
    for name, values in (("mean", mean), ("std", std)):
        if max(values) > 1 or min(values) < 0:
            raise ParameterError(
                f"{name} {list(values)} cannot be of pixels in [0, 1]; of pixels from 0 to 255, "
                f"divide by 255: {[round(value / 255, 4) for value in values]}"
            )
    return tuple(map(float, mean)), tuple(map(float, std))


def size_of(path: Path, size: Sequence[int] | None) -> tuple[int, int] | None:
    """`size` as (height, width); raises `ParameterError` for one that is none."""
    if size is None:
        return None
    if len(size) != 2 or not all(1 <= side <= MOST_PIXELS for side in size):
        raise ParameterError(
            f"{path.name}: size must be a height and a width from 1 to {MOST_PIXELS} pixels, got "
            f"{list(size)}"
        )
    return size[0], size[1]
