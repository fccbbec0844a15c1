"""What a model file is, as far as it tells without being run: `unbackdoor inspect`."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core.errors import CheckpointError, UnbackdoorError
from ..core.files import sha256
from ..core.foreign import told_as
from . import choosing, hub, model_files
from .candidates import Candidate
from .untrusted import open_torch, read_torch

MOST_KEYS = 50
FORMATS = (
    (b"\x89HDF", "HDF5 (Keras?), not read here"),
    (b"GGUF", "GGUF, not read here"),
    (b"\x1f\x8b", "gzip, not read here"),
    (b"\x08", "protocol buffers (ONNX?), not read here"),
)


def inspect(path: Path) -> dict[str, Any]:
    """All that `path`, a model file or a folder of the hub, tells, as JSON values.

    `error` says why its weights cannot be read, if they cannot; what is known is told all the
    same. Raises `CheckpointError` for a path without a file.
    """
    file = hub.weights_file(path)
    if not file.exists():
        raise CheckpointError(f"no such file: {file}")
    told: dict[str, Any] = {
        "file": path.name,
        "format": kind(file),
        "bytes": file.stat().st_size,
        "sha256": sha256(file),
        "made_by": None,
        "keys": [],
        "globals": [] if _safetensors(file) else _globals(file),
        "error": None,
        "header": {},
        "notes": [],
        "tensors": [],
        "parameters": 0,
        "architectures": [],
    }
    try:
        with told_as(CheckpointError, f"{path} cannot be read"):
            folder = hub.folder_of(path)
            stored = hub.read(folder) if folder else model_files.read(path)
            return told | _of(stored, file, folder)
    except UnbackdoorError as error:
        return {**told, "error": str(error)}


def _of(stored: model_files.Stored, file: Path, folder: Path | None) -> dict[str, Any]:
    told: dict[str, Any] = {}
    told["header"] = {k: v for k, v in stored.header.model_dump().items() if v not in (None, {})}
    told["notes"] = list(stored.notes)
    told["keys"] = [] if folder or _safetensors(file) else _keys(file)
    told["made_by"] = _maker(told, folder)
    told["tensors"] = [
        {"name": name, "shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch.")}
        for name, t in stored.weights.items()
    ]
    told["parameters"] = sum(t.numel() for t in stored.weights.values())
    if stored.header.arch is None:
        told["architectures"] = _fits(stored.candidates)
    return told


def kind(file: Path) -> str:
    """The format of a file by its first bytes, not by its name."""
    with file.open("rb") as opened:
        start = opened.read(16)
    if zipfile.is_zipfile(file):
        try:
            with zipfile.ZipFile(file) as archive:
                names = [name.partition("/")[2] for name in archive.namelist()]
        except Exception:  # noqa: BLE001 - a stranger's bytes can make it raise anything
            return "zip, damaged"
        if "constants.pkl" in names:
            return "TorchScript archive (torch.jit.save)"
        return "torch.save (zip)" if "data.pkl" in names else "zip, not of torch.save"
    if _safetensors(file):
        return "safetensors"
    if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05":
        return "pickle (torch.save before 1.6, or pickle.dump)"
    if start[:1] == b"{":
        return "JSON text"
    return next((told for begin, told in FORMATS if start.startswith(begin)), "unknown")


def _safetensors(file: Path) -> bool:
    with file.open("rb") as opened:
        start = opened.read(9)
    length = int.from_bytes(start[:8], "little")
    return start[8:] == b"{" and 2 <= length <= max(0, file.stat().st_size - 8)


def _globals(file: Path) -> list[str]:
    """The names in its pickles that only code could use."""
    try:
        return list(open_torch(file).foreign)
    except UnbackdoorError:
        return []


def _keys(file: Path) -> list[str]:
    """What a file of torch.save holds beside or around its weights."""
    try:
        found = read_torch(file)
    except UnbackdoorError:
        return []
    if not isinstance(found, dict) or all(isinstance(value, Tensor) for value in found.values()):
        return []
    return [str(key) for key in list(found)[:MOST_KEYS]]


def _maker(told: Mapping[str, Any], folder: Path | None) -> str | None:
    """Who made the file, as far as it tells."""
    arch, keys = str(told["header"].get("arch", "")), set(told["keys"])
    if "unbackdoor" in told["header"].get("provenance", {}):
        return f"unbackdoor {told['header']['provenance']['unbackdoor']}"
    if folder:
        return arch.partition(":")[0]
    if {"model_name", "num_classes", "model"} <= keys:
        return "BackdoorBench"
    if "pytorch-lightning_version" in keys:
        return "PyTorch Lightning"
    return None


def _fits(found: Sequence[Candidate]) -> list[dict[str, Any]]:
    """Known networks with just these tensors; whether each computes the same as the first."""
    fits, bare = choosing.recognized(found, every=True)
    if not fits or not all(model_files.plain(tensor) for tensor in bare.values()):
        return []
    others = set(choosing.differing(fits, bare)) if len(fits) > 1 else set()
    return [
        {
            "arch": fit.arch,
            "options": dict(fit.options),
            "classes": fit.classes,
            "same_as_first": fit.arch not in others,
        }
        for fit in fits
    ]
