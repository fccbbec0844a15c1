"""What was learned once is kept by its content, so that nothing is learned twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .errors import OutputError
from .files import whole
from .images import Images
from .run import Run
from .version import __version__

Learned = Mapping[str, Tensor]
"""What was learned: tensors by name, and nothing else."""


def recall(
    model: nn.Module,
    run: Run,
    name: str,
    asked: Mapping[str, Any],
    images: Images,
    learn: Callable[[], Learned],
) -> Learned:
    """What `learn` gives, kept in the folder `run.cache` if there is one.

    It is found again by everything it depends on: what was `asked` for, the `model` as it is now,
    the `images`, the seed, kind of device and precision of `run`, and the version that learned it.
    """
    kept = kept_of(model, run, name, asked, images)
    if kept.path is None:
        return learn()
    if not kept.found:
        kept.add(learn())
    return kept.tensors


class Kept:
    """What was learned so far, in one file of the folder `run.cache`, filed like `recall` does.

    `tensors` are those by name; `path` is None, and nothing is kept, where there is no folder.
    """

    def __init__(
        self, run: Run, name: str, asked: Mapping[str, Any], start: Learned, images: Images
    ) -> None:
        self.path, self.tensors, self.found = None, dict[str, Tensor](), False
        if run.cache is not None:
            fields = [asked, run.seed, run.device.type, str(run.dtype), images.classes]
            parts = (*(tensor for _, tensor in sorted(start.items())), images.pixels, images.labels)
            self.path = run.cache / f"{name}-{digest_of(fields, parts)}.safetensors"
            read = _read(self.path)
            self.tensors, self.found = dict(read or {}), read is not None

    def add(self, learned: Learned) -> None:
        """Adds what was learned; a stop in the middle leaves the file as it was."""
        self.tensors.update(learned)
        if self.path is not None:
            _write(self.path, self.tensors)


def kept_of(
    model: nn.Module, run: Run, name: str, asked: Mapping[str, Any], images: Images
) -> Kept:
    """What was learned so far from a `model` as it is now and the `images`, by this version."""
    weights = dict((*model.named_parameters(), *model.named_buffers()))
    versions = [__version__, torch.__version__]
    return Kept(run, name, {**asked, "model": repr(model), "by": versions}, weights, images)


def digest_of(fields: list[Any], tensors: tuple[Tensor, ...]) -> str:
    """What stands for JSON's values and tensors: other ones have another."""
    digest = hashlib.blake2b(json.dumps(fields, sort_keys=True).encode(), digest_size=12)
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path) -> Learned | None:
    # A torn file is learned anew: it holds nothing that cannot be made again.
    try:
        return load_file(path)
    except (FileNotFoundError, SafetensorError):
        return None


def _write(path: Path, learned: Learned) -> None:
    # Cloned, for a file cannot hold two names for one tensor.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in learned.items()}
    try:
        with whole(path) as half:
            save_file(tensors, half)
    except SafetensorError as error:
        raise OutputError(f"cannot write to {path.parent}: {error}") from None
