"""Reading files that a stranger made: the one place that opens a pickle, and runs nothing in it.

Torch's restricted unpickler reads tensors and plain containers. BackdoorBench results also hold
numpy arrays; numpy's own unpickling accepts arrays of objects and trusts flags in the file, so
its names are bound to the stand-ins below, which rebuild arrays of numbers from raw bytes.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import CheckpointError, RefusedFileError, listed
from ..core.files import existing

MALFORMED = (
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    OverflowError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a damaged or hostile file makes a reader raise."""

"""How many names an error message lists before it says how many more there are."""

NUMBERS = re.compile(r"b1|[iu][1248]|f[248]")
"""The codes of the numpy dtypes that are read: bool, integers and floats, never objects."""

PLAIN = (str, int, float, bool, complex, bytes, bytearray, torch.dtype, torch.device, type(None))

HARMLESS = re.compile(
    r"collections\.OrderedDict|collections\.Counter|_codecs\.encode|torch\._utils\._rebuild_\w+"
    r"|torch\._tensor\._rebuild_from_type_v2|torch\.(storage\.)?\w*Storage|torch\.Size"
    r"|(builtins|__builtin__)\.(set|bytearray|complex)"
    r"|torch\.(b?float|u?int|complex)\d+|torch\.bool|torch\.nn\.parameter\.Parameter|torch\.device"
)
"""Names that every ordinary checkpoint holds: left out of the message about a refused file."""


class _Dtype:
    """Stands in for `numpy.dtype`: a number type and its byte order, nothing else."""

    def __init__(self, code: str = "", *_: object) -> None:
        if not isinstance(code, str) or not NUMBERS.fullmatch(code):
            raise RefusedFileError(f"holds numpy data of dtype {code!r}; only numbers are read")
        self.code = code
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, *compound = state
        if order not in "<>=|" or any(part is not None for part in compound[:3]):
            raise RefusedFileError("holds a compound numpy dtype; only numbers are read")
        self.order = order

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


class _Array:
    """Stands in for `numpy.ndarray`: empty until its shape, dtype and raw bytes arrive."""

    array = np.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        flat = np.frombuffer(data, _checked(dtype))
        if len(flat) != math.prod(shape):
            raise ValueError(f"{len(flat)} numbers for an array of shape {shape}")
        self.array = flat.reshape(shape, order="F" if fortran else "C").copy()


def _checked(dtype: object) -> np.dtype[Any]:
    if not isinstance(dtype, _Dtype):
        raise RefusedFileError("holds numpy data without a dtype of numbers")
    return dtype.numpy()


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _scalar(dtype: _Dtype, data: bytes) -> object:
    return np.frombuffer(data, _checked(dtype), count=1)[0]


ALLOWED = [
    (_Array, "numpy.ndarray"),
    (_Dtype, "numpy.dtype"),
    (_reconstruct, "numpy.core.multiarray._reconstruct"),
    (_reconstruct, "numpy._core.multiarray._reconstruct"),
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
]
"""The allow list: what a file may name beyond what torch's restricted unpickler knows."""


def read_torch(path: Path | str) -> object:
    """What a file of `torch.save` holds: plain containers, numbers, tensors and arrays.

    Tensors are on the CPU and detached. Raises `RefusedFileError`, naming the globals found in it,
    for a file that asks for anything off the allow list, and `CheckpointError` for one that is
    missing, truncated or no such file.
    """
    path = existing(path)
    try:
        with warnings.catch_warnings(), _only_allowed():
            warnings.simplefilter("ignore")
            # Opened here: torch would choose another reader by the name of the file.
            with path.open("rb") as file:
                found = torch.load(file, map_location="cpu", weights_only=True)
        return _Plain().of(found)
    except RefusedFileError as error:
        raise RefusedFileError(f"{path} was refused: it {error}; nothing in it was run") from None
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from None
    except MALFORMED:
        if names := globals_in(path):
            raise RefusedFileError(
                f"{path} was refused: it asks for {listed(names)}, which could run code; "
                "nothing in it was run"
            ) from None
        raise CheckpointError(
            f"{path} cannot be read: it is damaged, truncated or no file of torch.save"
        ) from None


@contextmanager
def _only_allowed() -> Iterator[None]:
    """Inside, torch's list of safe globals is `ALLOWED`: what other packages added is put back."""
    others = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with torch.serialization.safe_globals(ALLOWED):  # type: ignore[arg-type]
            yield
    finally:
        torch.serialization.add_safe_globals(others)


def globals_in(path: Path) -> list[str]:
    """The names in the pickles of `path` that are off the allow list, found without running it."""
    allowed = {name for _, name in ALLOWED}
    found: set[str] = set()
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for member in archive.namelist():
                    if member.endswith(".pkl"):
                        with archive.open(member) as file:
                            found.update(_named(file))
        else:
            with path.open("rb") as file:
                found.update(_named(file))
    except MALFORMED:
        # What was named before the damage is worth telling.
        pass
    return sorted(name for name in found - allowed if not HARMLESS.fullmatch(name))


def _named(file: IO[bytes]) -> Iterator[str]:
    """The globals of each pickle in `file`, one after another, until what follows is none."""
    while True:
        texts: list[str] = []
        memo: dict[object, str] = {}
        try:
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name in ("GLOBAL", "INST"):
                    yield str(argument).replace(" ", ".")
                elif opcode.name == "STACK_GLOBAL":
                    yield ".".join(texts[-2:])
                elif opcode.name == "MEMOIZE" or opcode.name.endswith("PUT"):
                    memo[len(memo) if argument is None else argument] = texts[-1] if texts else ""
                elif opcode.name.endswith("GET"):
                    texts.append(memo.get(argument, ""))
                elif isinstance(argument, str):
                    texts.append(argument)
        except MALFORMED:
            return


class _Plain:
    """Turns what was read into plain values; shared parts are turned once, cycles are refused."""

    def __init__(self) -> None:
        self.done: dict[int, object] = {}

    def of(self, value: object) -> object:
        if isinstance(value, (*PLAIN, np.generic)):
            return value
        if id(value) not in self.done:
            self.done[id(value)] = _PENDING
            self.done[id(value)] = self._new(value)
        if self.done[id(value)] is _PENDING:
            raise CheckpointError("holds a container that holds itself")
        return self.done[id(value)]

    def _new(self, value: object) -> object:
        # The built-in methods are called by class: a file may hide those of an instance.
        if isinstance(value, dict):
            return {self.of(key): self.of(part) for key, part in dict.items(value)}
        if isinstance(value, list):
            return [self.of(part) for part in list.__iter__(value)]
        if isinstance(value, tuple):
            return tuple(self.of(part) for part in tuple.__iter__(value))
        if isinstance(value, set):
            return {self.of(part) for part in set.__iter__(value)}
        if isinstance(value, Tensor):
            return torch.Tensor.detach(value)
        if isinstance(value, _Array):
            return value.array
        raise CheckpointError(f"holds a {type(value).__name__}, which no model file needs")


_PENDING = object()
