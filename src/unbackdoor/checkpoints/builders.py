"""The calls in a pickle that mean numbers: tensors, arrays and plain containers, made by us.

Torch's storages are bytes of the file; a tensor is a view of one, checked to lie within it. NumPy's
arrays are views of bytes in the pickle; only numbers are made, never objects.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .inert import Foreign, Global, key
from .pickles import Builder

NUMBERS = re.compile(r"b1|[iu][1248]|f[248]")
"""The codes of the numpy dtypes that are made: bool, integers and floats, never objects."""

STORAGE = re.compile(r"torch(?:\.cuda|\.storage)?\.(\w+?)Storage")
TYPES = {
    **{"Double": torch.float64, "Float": torch.float32, "Half": torch.float16},
    **{"BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32},
    **{"Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool},
    **{"ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128},
    **{"Untyped": torch.uint8},
}
MOST_DIMENSIONS = 32


@dataclass(frozen=True)
class Storage:
    """The numbers of a storage in a file, `[n]`; None as long as they are not read."""

    dtype: torch.dtype
    numbers: Tensor | None


def dtype_of(kind: Any) -> torch.dtype | None:
    """The type of the numbers in a storage of this kind; None if it is no plain one."""
    found = STORAGE.fullmatch(kind.name) if isinstance(kind, Global) else None
    return TYPES.get(found[1]) if found else None


def numbers_in(raw: bytes | bytearray | memoryview, dtype: torch.dtype) -> Tensor:
    """The bytes `raw` as numbers of `dtype`, `[n]`; they share their memory."""
    if not len(raw):
        return torch.empty(0, dtype=dtype)
    with warnings.catch_warnings():  # that the bytes cannot be written: nobody writes there
        warnings.simplefilter("ignore", UserWarning)
        return torch.frombuffer(raw, dtype=dtype)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor | Foreign:
    """A view of a storage; a `Foreign` where it would be larger than the storage."""
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    whole = (offset, *size, *stride)
    if len(size) != len(stride) or len(size) > MOST_DIMENSIONS:
        raise ValueError("sizes and strides that do not match")
    if not all(type(number) is int and 0 <= number < 2**48 for number in whole):
        raise ValueError("sizes that are no counts")
    if storage.numbers is None:
        return torch.empty(0, dtype=storage.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) and last >= len(storage.numbers):
        raise ValueError("a tensor beyond its storage")
    return storage.numbers.as_strided(size, stride, min(offset, len(storage.numbers)))


def _typed_tensor(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *_: Any
) -> Tensor | Foreign:
    """The same of an untyped storage, whose type comes with the call."""
    found = getattr(torch, dtype.name.removeprefix("torch."), None)
    if not isinstance(storage, Storage) or not isinstance(found, torch.dtype):
        raise ValueError("a tensor of no known type")
    numbers = None if storage.numbers is None else storage.numbers.view(found)
    return _tensor(Storage(found, numbers), offset, size, stride)


def _tensor_itself(tensor: Any, *_: Any) -> Any:
    if not isinstance(tensor, Tensor | Foreign):
        raise ValueError("a parameter of no tensor")
    return tensor


def _dict(*given: Any) -> dict[Any, Any]:
    """An OrderedDict and its kin: the pairs; a factory of defaults is left out."""
    pairs = next((part for part in given if isinstance(part, list | dict)), [])
    if isinstance(pairs, dict):
        return dict(pairs)
    return {key(name): value for name, value in pairs}


def _bytes(text: Any, encoding: Any = "latin1") -> bytes:
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise ValueError("no bytes of Python 2")
    return text.encode("latin-1")


def _only(kind: type | tuple[type, ...]) -> Builder:
    def build(value: Any) -> Any:
        if not isinstance(value, kind):
            raise ValueError("another kind")
        return value

    return build


def _set(values: Any = ()) -> set[Any]:
    return set(map(key, values))


def _complex(real: float, imaginary: float) -> complex:
    return complex(real, imaginary)


@dataclass(frozen=True)
class Dtype:
    """Stands for `numpy.dtype`: a type of numbers and its byte order."""

    code: str
    order: str = "="

    def take_state(self, state: Any) -> Dtype | Foreign:
        """With the byte order of its pickled state; inert if the state says more than numbers."""
        _, order, *compound = state
        if order not in ("<", ">", "=", "|") or any(part is not None for part in compound[:3]):
            return Foreign("numpy.dtype", (self.code,), state)
        return Dtype(self.code, order)

    def numpy(self) -> np.dtype[Any]:
        """The dtype itself."""
        return np.dtype(self.order + self.code)


def _dtype(code: Any, *_: Any) -> Dtype:
    if type(code) is not str or not NUMBERS.fullmatch(code):
        raise ValueError("a dtype of more than numbers")
    return Dtype(code)


@dataclass(frozen=True)
class Empty:
    """Stands for a `numpy.ndarray` before its shape, type and bytes arrive."""

    def take_state(self, state: Any) -> Any:
        """The array; inert if it is one of more than numbers."""
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, Dtype):
            return Foreign("numpy.ndarray", (), None)
        raw = data.encode("latin-1") if type(data) is str else data
        return array_of(raw, dtype.numpy(), shape, "F" if fortran else "C")


def array_of(raw: Any, dtype: np.dtype[Any], shape: Any, order: Any) -> np.ndarray[Any, Any]:
    """The bytes `raw` as an array; raises `ValueError` where they are not as many as it claims."""
    if not isinstance(raw, bytes | bytearray) or len(shape) > MOST_DIMENSIONS:
        raise ValueError("an array of no bytes")
    flat = np.frombuffer(raw, dtype) if len(raw) else np.empty(0, dtype)
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray[Any, Any]:
    return array_of(raw, dtype.numpy(), shape, order)


def _scalar(dtype: Any, data: Any) -> Any:
    raw = data.encode("latin-1") if type(data) is str else data
    return np.frombuffer(raw, dtype.numpy(), count=1)[0]


def _rebuilt_as(call: Callable[[Any, Any], Any]) -> Builder:
    """For a subclass of Tensor: what its own call makes, without the subclass."""
    return lambda function, kind, arguments, *_: _tensor_itself(call(function, arguments))


def builders(
    call: Callable[[Any, Any], Any], nested: Callable[[bytes], Any]
) -> Mapping[str, Builder]:
    """The table; `call` makes a call inside a call, `nested` reads a file of torch inside one."""
    module = ("numpy.core", "numpy._core")
    return {
        "torch._utils._rebuild_tensor": _tensor,
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch._utils._rebuild_tensor_v3": _typed_tensor,
        "torch._utils._rebuild_parameter": _tensor_itself,
        "torch._utils._rebuild_parameter_with_state": _tensor_itself,
        "torch.nn.parameter.Parameter": _tensor_itself,
        "torch._tensor._rebuild_from_type_v2": _rebuilt_as(call),
        "torch.storage._load_from_bytes": nested,
        "torch.Size": _only(tuple),
        "torch.device": lambda *parts: ":".join(map(str, parts[:2])),
        **dict.fromkeys(("collections.OrderedDict", "collections.defaultdict"), _dict),
        "collections.Counter": _dict,
        "builtins.set": _set,
        "builtins.complex": _complex,
        "builtins.bytearray": _only((bytes, bytearray)),
        "_codecs.encode": _bytes,
        "numpy.dtype": _dtype,
        **{f"{place}.multiarray._reconstruct": lambda *_: Empty() for place in module},
        **{f"{place}.multiarray.scalar": _scalar for place in module},
        **{f"{place}.numeric._frombuffer": _from_buffer for place in module},
    }
