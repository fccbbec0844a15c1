"""Torch files that blow up: deep, shared, huge, lying about their size, or of odd tensors."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from . import opcodes as op
from .inputs import CONVERT, DIGITS, EITHER, INSPECT, REFUSED, TEXTS, Input

MANY = 300_000
WEIGHT = {"weight": op.tensor()}
HUGE = 10**12


def alike(count: int) -> Iterator[tuple[int, int]]:
    """Pairs of numbers whose tuples all have one hash: Python's hash of a tuple has no secret."""
    first, second, fifth = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x27D4EB2F165667C5
    inverse = [pow(prime, -1, 2**64) for prime in (first, second)]

    def turned(value: int, by: int) -> int:
        return (value << by | value >> (64 - by)) % 2**64

    n = found = 0
    while found < count:
        n += 1
        begun = turned((fifth + n * second) % 2**64, 31) * first % 2**64
        lane = (turned(12345 * inverse[0] % 2**64, 33) - begun) * inverse[1] % 2**64
        if lane < 2**61 - 1:  # then it is the hash of itself
            found += 1
            yield n, lane


CODES = {
    "a deep tuple as a key": b"}" + b")" + b"\x85" * MANY + b"Ns",
    "a deep tuple in a set": b"\x8f(" + b")" + b"\x85" * MANY + b"\x90",
    "a deep list": b"]" * MANY + b"a" * (MANY - 1),
    "a deep dict": (b"}" + op.text("a")) * MANY + b"N" + b"s" * MANY,
    "deep calls": op.named("a.b") * 20_000 + b"N" + b"\x85R" * 20_000,
    "shared tuples of 2^60 leaves": b"}" + op.text("a") + b")" + b"2\x86" * 60 + b"s",
    "shared tuples as keys": b"}" + b")" + b"2\x86" * 60 + b"Ns",
    "shared lists of 2^60 leaves": b"]q\x00"
    + b"".join(b"](h" + bytes([n]) + b"h" + bytes([n]) + b"eq" + bytes([n + 1]) for n in range(60)),
    "shared dicts of 2^60 leaves": b"}q\x00"
    + b"".join(
        b"}(" + b"".join(op.text(k) + b"h" + bytes([n]) for k in "ab") + b"uq" + bytes([n + 1])
        for n in range(60)
    ),
    "a dict that holds itself": b"}q\x00" + op.text("a") + b"h\x00s",
    "a list of weights that holds itself": b"]q\x00(h\x00" + op.dict_(WEIGHT) + b"e",
    "a name in punycode": op.called("_codecs.encode", op.text("a" * 200_000), op.text("punycode")),
    "a bytearray of 10 GB": op.called("builtins.bytearray", op.number(10**10)),
    "a list copied 20,000 times": (
        op.named("collections.OrderedDict")
        + b"q\x00]("
        + b"N" * 50_000
        + b"eq\x01"
        + b"h\x00h\x01\x85R0" * 20_000
    ),
    "a number of 5,000 digits": b"L" + DIGITS.encode() + b"L\n",
    "a number of a million bytes": b"\x8b" + struct.pack("<I", 10**6) + b"\x7f" * 10**6,
    "a text that claims 4 GB": b"X\xff\xff\xff\xff" + b"a" * 100,
    "bytes that claim 2^62": b"\x8e" + struct.pack("<Q", 2**62) + b"a" * 100,
    "a memo of 2^31": b"Nr\xff\xff\xff\x7f",
    "a frame of 2^62": b"\x95" + struct.pack("<Q", 2**62) + b"N",
    "no mark": b"t",
    "an empty stack": b"R",
    "two values": b"NN",
    "pops of nothing": b"0" * 100,
    "a memo that is not there": b"h\x09",
    "an unknown opcode": b"\xf0",
    "a mark as a value": b"}((Nu",
    "buffers": b"\x97",
    "a persistent id of protocol 0": b"P" + b"x" * 1000 + b"\n",
    "keys that are all alike": b"}("
    + b"".join(op.number(n * (2**61 - 1)) + b"N" for n in range(20_000))
    + b"u",
    "100,000 dicts of tensors": b"](" + op.dict_({"a": op.tensor()}) + b"2" * 100_000 + b"e",
    "2.9 million steps": b"N0" * 1_450_000 + b"N",
    "names with 2,000 dots": op.dict_({"a." * 2_000 + "weight": op.tensor()}),
    "a name of 100,000 dots": op.dict_({"." * 100_000: op.tensor(), ".": op.tensor()}),
    "20,000 layers called alike": b"}("
    + b"".join(
        op.text(f"l{n}.fc1.weight") + (op.tensor() + b"q\x09" if n == 0 else b"h\x09")
        for n in range(20_000)
    )
    + b"u",
    "100,000 keys of one hash": b"}("
    + b"".join(op.tuple_(*map(op.number, pair)) + b"N" for pair in alike(100_000))
    + b"u",
    "a dict 500,000 deep with long names": (
        op.text("a" * 80) + b"q\x000" + b"}h\x00" * 500_000 + b"N" + b"s" * 500_000
    ),
    "50,000 modules in one another, each with weights": (
        op.tensor()
        + b"q\x090"
        + op.text("_modules")
        + b"q\x010"
        + op.text("_parameters")
        + b"q\x020"
        + (op.named("a.B") + b")\x81}h\x02}" + op.text("w") + b"h\x09ssh\x01}" + op.text("a"))
        * 50_000
        + op.named("a.B")
        + b")\x81"
        + b"ssb" * 50_000
    ),
    "20,000 tensors": b"}("
    + b"".join(
        op.text(f"l{n}.weight") + (op.tensor() + b"q\x09" if n == 0 else b"h\x09")
        for n in range(20_000)
    )
    + b"u",
    "keys that are no texts": b"}(K\x01"
    + op.tensor()
    + b"N"
    + op.tensor()
    + b")"
    + op.tensor()
    + b"u",
}

TENSORS = {
    "beyond its storage": op.tensor(size=(HUGE,)),
    "with a stride of 0": op.tensor(size=(HUGE,), stride=(0,)),
    "with a stride of 0 and 32 sides": op.tensor(size=(2**8,) * 32, stride=(0,) * 32),
    "of 1,000 sides": op.tensor(size=(1,) * 1_000, stride=(1,) * 1_000),
    "of negative size": op.tensor(size=(-1,)),
    "of negative stride": op.tensor(stride=(-1,)),
    "at a negative place": op.tensor(offset=op.number(-4)),
    "at a place of 5,000 digits": op.tensor(offset=op.number(10**4000)),
    "of no side": op.tensor(size=(), stride=()),
    "of no number": op.tensor(size=(0, HUGE), stride=(1, 1)),
    "of a size that wraps": op.tensor(size=(2**33, 2**33), stride=(2**33, 1)),
    "of a storage that is not there": op.tensor(op.storage("9")),
    "of a storage that is a path": op.tensor(op.storage("../../../data.pkl")),
    "of a storage of objects": op.tensor(op.storage(kind="Object")),
    "of a quantized storage": op.tensor(op.storage(kind="QInt8")),
    "of a storage that claims 2^62": op.tensor(op.storage(count=2**62)),
    "of complex numbers": op.tensor(op.storage(kind="ComplexFloat"), size=(2,)),
    "of a storage of odd bytes": op.tensor(op.storage(kind="ComplexDouble"), size=(1,)),
    "of text for sizes": op.called(
        "torch._utils._rebuild_tensor_v2", op.storage(), op.text("0"), op.text("44"), op.text("11")
    ),
}


def _codes() -> Iterator[Input]:
    for place, (name, code) in enumerate(CODES.items()):
        kind = sorted(op.CONTAINERS)[place % 3]

        def make(folder: Path, code: bytes = code, kind: str = kind) -> list[str]:
            op.CONTAINERS[kind](folder / "a.pt", op.steps(code))
            return CONVERT

        yield Input("torch", f"{name}, {kind}", make, REFUSED)
    for place, (name, code) in enumerate(TENSORS.items()):
        verb = CONVERT if place % 5 else INSPECT

        def odd(folder: Path, code: bytes = code, verb: list[str] = verb) -> list[str]:
            op.in_zip(folder / "a.pt", op.steps(op.dict_({"fc.weight": code})))
            return verb

        yield Input("torch", f"a tensor {name}", odd, REFUSED if place % 5 else EITHER)


def _saved(value: object, name: str, *, shown: bool = False, **said: object) -> Input:

    def make(folder: Path) -> list[str]:
        made = value() if callable(value) else value
        torch.save(made, folder / "a.pt", **said)
        return INSPECT if shown else CONVERT

    return Input("torch", name, make, EITHER if shown else REFUSED)


def _odd_tensors() -> Iterator[Input]:
    kinds = {
        "sparse": lambda: torch.ones(2, 2).to_sparse(),
        "sparse by rows": lambda: torch.ones(2, 2).to_sparse_csr(),
        "nested": lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]),
        "quantized": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "on no device": lambda: torch.ones(2, device="meta"),
        "of 8-bit floats": lambda: torch.ones(4).to(torch.float8_e4m3fn),
        "conjugated": lambda: torch.ones(2, dtype=torch.complex64).conj(),
        "of booleans": lambda: torch.ones(2) > 0,
        "NaN and infinite": lambda: torch.tensor([float("nan"), float("inf")]),
        "of unsigned numbers": lambda: torch.ones(2, dtype=torch.uint16),
    }
    for name, kind in kinds.items():
        for legacy in (False, True) if name in ("sparse", "nested") else (False,):
            yield _saved(
                lambda kind=kind: {"a.weight": kind(), "b.weight": torch.ones(2)},
                name=f"a tensor that is {name}{', legacy' if legacy else ''}",
                _use_new_zipfile_serialization=not legacy,
            )
    for name, array in {
        "of half floats": np.ones(3, "f2"),
        "of big-endian": np.ones(3, ">f8"),
        "of 64-bit unsigned": np.ones(3, "u8"),
        "of texts": np.array(["a"]),
        "of objects": np.array([None]),
        "of no side": np.array(1.0),
        "of records": np.zeros(1, "i4,f4"),
        "of dates": np.array(["2026-01-01"], "M8[D]"),
        "of long doubles": np.ones(2, np.longdouble),
    }.items():
        yield _saved({"a.weight": array, "b": torch.ones(1)}, name=f"an array {name}")


def _shown() -> Iterator[Input]:
    """Texts where names are shown: of tensors, of keys, of classes, of code."""
    for place, (name, told) in enumerate(TEXTS.items()):
        lone = told.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        value = [
            {lone + ".weight": torch.ones(2), "b": torch.ones(1)},
            {"state": {"w": torch.ones(1)}, lone: 1, "epoch": 3},
            {"model": {"a.weight": torch.ones(1)}, "model_name": lone, "num_classes": 2},
        ][place % 3]
        yield _saved(value, f"{name} as a name", shown=True)

        def code(folder: Path, told: str = lone) -> list[str]:
            words = op.named("os." + told[:1000].replace(".", "") or "a")
            op.in_zip(folder / "a.pt", op.steps(op.dict_({"w": op.tensor(), "x": words + b")R"})))
            return CONVERT

        yield Input("torch", f"{name} as a name of code", code, REFUSED)


def _counts() -> Iterator[Input]:
    for name, count in {
        "2,000,000,000": 2_000_000_000,
        "of 4,000 digits": 10**4000,
        "-1": -1,
        "NaN": float("nan"),
        "text": "ten",
        "true": True,
        "a list": [3],
    }.items():
        value = {
            "model_name": "preactresnet18",
            "num_classes": count,
            "model": {"a.b": torch.ones(2)},
        }
        yield _saved(value, name=f"a BackdoorBench result with the number of classes {name}")


def inputs() -> Iterator[Input]:
    yield from _codes()
    yield from _odd_tensors()
    yield from _shown()
    yield from _counts()
