"""Pickles written by hand, opcode by opcode, and the torch files that they go into."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
VERSION, SYSTEM = pickle.dumps(1001, 2), pickle.dumps({"little_endian": True}, 2)

NONE, TUPLE0, MARK, LIST0, DICT0, SET0 = b"N", b")", b"(", b"]", b"}", b"\x8f"


def steps(*parts: bytes) -> bytes:
    """A whole pickle of protocol 4."""
    return b"\x80\x04" + b"".join(parts) + b"."


def text(told: str) -> bytes:
    raw = told.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def raw(data: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + struct.pack("<I", len(data)) + data


def named(name: str) -> bytes:
    """The global `module.name`."""
    module, _, last = name.rpartition(".")
    return text(module) + text(last) + b"\x93"


def tuple_(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def dict_(pairs: Mapping[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(name) + value for name, value in pairs.items()) + b"u"


def called(name: str, *arguments: bytes) -> bytes:
    return named(name) + tuple_(*arguments) + b"R"


def storage(name: str = "0", count: int = 4, kind: str = "Float") -> bytes:
    """The persistent id of a storage."""
    told = text("storage"), named(f"torch.{kind}Storage"), text(name), text("cpu"), number(count)
    return tuple_(*told) + b"Q"


def tensor(
    where: bytes | None = None,
    offset: bytes = b"K\x00",
    size: tuple[int, ...] = (4,),
    stride: tuple[int, ...] = (1,),
) -> bytes:
    """The call that rebuilds a tensor."""
    numbers = [tuple_(*map(number, part)) for part in (size, stride)]
    hooks = called("collections.OrderedDict")
    given = (where or storage(), offset, *numbers, b"\x89", hooks)
    return called("torch._utils._rebuild_tensor_v2", *given)


def in_zip(
    path: Path,
    data: bytes,
    storages: Mapping[str, bytes] | None = None,
    more: Mapping[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """A file of torch.save that holds the pickle `data`."""
    members = {"m/data.pkl": data, "m/byteorder": b"little", "m/version": b"3\n"}
    members |= {f"m/data/{name}": part for name, part in (storages or {"0": bytes(16)}).items()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, part in (members | dict(more or {})).items():
            archive.writestr(name, part)
    return path


def in_legacy(path: Path, data: bytes, *, keys: bytes | None = None, after: bytes = b"") -> Path:
    """A file as torch wrote before 1.6; `data` uses the storage `0`, which holds four numbers."""
    held = struct.pack("<Q", 4) + bytes(16)
    names = pickle.dumps(["0"], 2) if keys is None else keys
    path.write_bytes(MAGIC + VERSION + SYSTEM + data + names + (after or held))
    return path


def in_file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


CONTAINERS = {"zip": in_zip, "legacy": in_legacy, "plain": in_file}


def repacked(path: Path, compression: int) -> Path:
    """The same zip file, compressed."""
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, part in members.items():
            archive.writestr(name, part)
    return path
