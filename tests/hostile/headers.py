"""Safetensors files whose headers lie, overlap, blow up or say more than they may."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .inputs import CANARY, DIGITS, EITHER, REFUSED, TEXTS, Input, sparse, written
from .samples import small_model

FLOAT = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
INSPECT = ["inspect", "a.safetensors"]
CONVERT = ["convert", "a.safetensors", "out/m.safetensors"]


def file(
    header: bytes | str | Mapping[str, Any], data: bytes = bytes(8), length: int | None = None
) -> bytes:
    """A safetensors file; `length` is what it claims of its header."""
    if isinstance(header, Mapping):
        header = json.dumps(header)
    if isinstance(header, str):
        header = header.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def _one(**changes: object) -> dict[str, Any]:
    return {"weight": {**FLOAT, **changes}}


NESTED = "[" * 100_000 + "]" * 100_000
HEADERS: dict[str, bytes] = {
    "a header of 2^63 bytes": file(_one(), length=2**63),
    "a header that is longer than the file": file(_one(), length=10_000),
    "a header that is shorter": file(_one(), length=9),
    "an empty header": file("{}"),
    "a header that is a list": file("[1]"),
    "a header nested 100,000 deep": file('{"weight":' + NESTED + "}"),
    "a number of 5,000 digits as a side": file(
        '{"weight":{"dtype":"F32","shape":[' + DIGITS + '],"data_offsets":[0,8]}}'
    ),
    "a number of 5,000 digits as a place": file(
        '{"weight":{"dtype":"F32","shape":[2],"data_offsets":[0,' + DIGITS + "]}}"
    ),
    "a claimed shape of 10^12": file(_one(shape=[10**12])),
    "sides whose product wraps": file(_one(shape=[2**32, 2**32, 2])),
    "a side of -1": file(_one(shape=[-1])),
    "NaN as a side": file('{"weight":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}'),
    "1,000 sides": file(_one(shape=[1] * 999 + [2])),
    "sides of 0 and 2^62": file(_one(shape=[0, 2**62], data_offsets=[0, 0]), b""),
    "an end before its start": file(_one(data_offsets=[8, 0])),
    "an end beyond the file": file(_one(data_offsets=[0, 2**40], shape=[2**38])),
    "two tensors that overlap": file(_one() | {"b": FLOAT}),
    "a hole between tensors": file(_one() | {"b": {**FLOAT, "data_offsets": [16, 24]}}, bytes(24)),
    "an unknown type": file(_one(dtype="OBJECT")),
    "complex numbers": file(_one(dtype="C64", shape=[1])),
    "8-bit floats": file(_one(dtype="F8_E4M3", shape=[8])),
    "4-bit floats": file(_one(dtype="F4", shape=[16])),
    "booleans that are 7": file(_one(dtype="BOOL", shape=[8]), b"\x07" * 8),
    "NaN and infinite weights": file(_one(), b"\0\0\xc0\x7f\0\0\x80\x7f"),
    "one name twice": file(
        '{"weight":'
        + json.dumps(FLOAT)
        + ',"weight":'
        + json.dumps({**FLOAT, "shape": [2, 1]})
        + "}"
    ),
    "metadata that is a list": file({"__metadata__": ["arch"], **_one()}),
    "metadata of numbers": file({"__metadata__": {"arch": 3}, **_one()}),
    "200,000 empty tensors": file(
        {
            f"l{n}.weight": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
            for n in range(200_000)
        },
        b"",
    ),
    "20,000 layers called alike": file(
        {
            f"l{n}.conv1.0.weight": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
            for n in range(20_000)
        },
        b"",
    ),
    "names with 2,000 dots": file({"a." * 2_000 + "weight": FLOAT}),
    "no bytes": b"",
    "eight bytes": b"\x02" + bytes(7),
    "a bare brace": bytes(8) + b"{",
    "a pickle behind the brace": bytes(8) + b"{\x80\x04cos\nsystem\n.",
}

TOLD: dict[str, dict[str, str]] = {
    "an architecture that is code": {"arch": "os:system"},
    "an architecture that is a file": {"arch": f"evil.py:{CANARY}"},
    "an architecture of the hub": {"arch": "timm:hf_hub:someone/model"},
    "an architecture that torch.hub loads": {"arch": "torch.hub:load"},
    "an architecture of colons": {"arch": "timm:" * 5_000},
    "an unknown network of timm": {"arch": "timm:../../x"},
    "a dunder for an architecture": {"arch": "__init__"},
    "a module for an architecture": {"arch": "_own_code"},
    "a long architecture": {"arch": "x" * 300_000},
    "options that fetch": {"options": json.dumps({"pretrained": True}), "arch": "timm:resnet18"},
    "options that read files": {
        "options": json.dumps({"checkpoint_path": "a.pt"}),
        "arch": "timm:resnet18",
    },
    "a width of 10^9": {"options": json.dumps({"width": 10**9, "hidden": 10**9})},
    "a width of 5,000 digits": {"options": '{"width":' + DIGITS + "}"},
    "a width of -1": {"options": json.dumps({"width": -1})},
    "a side of 10^12": {"options": json.dumps({"side": 10**12})},
    "a side of NaN": {"options": '{"side": NaN}'},
    "options nested 100,000 deep": {"options": NESTED},
    "a million layers": {"arch": "cifar_resnet", "options": json.dumps({"depth": 6 * 10**6 + 2})},
    "a million wide layers": {
        "arch": "wide_resnet",
        "options": json.dumps({"depth": 6 * 10**6 + 4}),
    },
    "a million dense layers": {
        "arch": "densenet_bc",
        "options": json.dumps({"depth": 6 * 10**6 + 4}),
    },
    "a million layers of a transformer": {
        "arch": "transformers:vit",
        "options": json.dumps({"num_hidden_layers": 10**6, "hidden_size": 8}),
    },
    "a window of 10,000": {
        "arch": "transformers:swin",
        "options": json.dumps({"window_size": 10_000, "image_size": 20_000}),
    },
    "an image of 10^6 pixels a side": {
        "arch": "timm:vit_tiny_patch16_224",
        "options": json.dumps({"img_size": 10**6}),
    },
    "a window of timm": {
        "arch": "timm:swin_tiny_patch4_window7_224",
        "options": json.dumps({"img_size": 200_000}),
    },
    "10^9 groups": {
        "arch": "resnet18",
        "options": json.dumps({"groups": 10**9, "width_per_group": 10**9}),
    },
    "10^9 channels": {"arch": "timm:resnet18", "options": json.dumps({"in_chans": 10**9})},
    "a growth of 10^9": {"arch": "densenet121", "options": json.dumps({"growth_rate": 10**9})},
    "a wide mobile network": {"arch": "mobilenet_v2", "options": json.dumps({"width_mult": 1e18})},
    "a million class names": {"classes": json.dumps(["x"] * 10**6)},
    "no class names": {"classes": "[]"},
    "class names that are numbers": {"classes": "[1, 2, 3]"},
    "class names of one text": {"classes": json.dumps(["a"] * 3)},
    "a mean of NaN": {"mean": "[NaN]", "std": "[1]"},
    "a std of 0": {"mean": "[0]", "std": "[0]"},
    "a std of 1e999": {"mean": "[0]", "std": "[1e999]"},
    "a mean of 5,000 digits": {"mean": f"[{DIGITS}]", "std": "[1]"},
    "a million means": {"mean": json.dumps([0.5] * 10**6), "std": json.dumps([0.5] * 10**6)},
    "a size of 10^9": {"size": "[1000000000, 1000000000]"},
    "a size of -1": {"size": "[-1, 16]"},
    "a provenance of 100,000 lists": {"provenance": '{"a":' + NESTED + "}"},
    "a provenance that is no object": {"provenance": '"x"'},
    "a provenance of odd numbers": {"provenance": '{"unbackdoor": {"a": [1e999, NaN]}}'},
    "headers that are no JSON": {"classes": "{", "mean": "\0"},
}


def good(folder: Path) -> tuple[dict[str, Any], bytes]:
    """The header and data of a model that opens."""
    raw = small_model(folder / "a.safetensors").read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def told(said: Mapping[str, str], verb: list[str], **classes: Any) -> Any:
    """Makes a good model file that says other things of itself."""

    def make(folder: Path) -> list[str]:
        header, data = good(folder)
        header["__metadata__"] |= said
        written(folder / "a.safetensors", file(header, data))
        written(folder / "evil.py", f"open({str(folder / CANARY)!r}, 'w')\n{CANARY} = 1\n")
        return verb

    return make


def inputs() -> Iterator[Input]:
    for place, (name, data) in enumerate(HEADERS.items()):
        many = "layers called" in name or place % 4
        verb = [*CONVERT, "--arch", "badnet_cnn"] if many else INSPECT

        def make(folder: Path, data: bytes = data, verb: list[str] = verb) -> list[str]:
            written(folder / "a.safetensors", data)
            return verb

        yield Input("safetensors", name, make, REFUSED if many else EITHER)
    for name, said in TOLD.items():
        yield Input("safetensors", name, told(said, CONVERT), EITHER)
    for name, text in TEXTS.items():
        words = json.dumps([text, "dog", "eel"])
        verb = [INSPECT, CONVERT][len(name) % 2]
        yield Input("safetensors", f"{name} as a class", told({"classes": words}, verb), EITHER)

        def shown(folder: Path, text: str = text) -> list[str]:
            lone = text.encode("utf-8", "replace").decode()
            written(
                folder / "a.safetensors",
                file({lone: FLOAT, "__metadata__": {"arch": lone, lone: lone}}),
            )
            return CONVERT

        yield Input("safetensors", f"{name} as a name and an architecture", shown, REFUSED)

    def holes(folder: Path) -> list[str]:
        sparse(folder / "a.safetensors", 64 * 2**30, file(_one(), b"", length=2**35))
        return CONVERT  # inspect hashes all of a file, however long that takes

    yield Input("safetensors", "64 GB of nothing", holes, REFUSED)

    def link(folder: Path) -> list[str]:
        (folder / "a.safetensors").symlink_to("/dev/zero")
        return CONVERT

    yield Input("safetensors", "a link to /dev/zero", link, REFUSED)

    def over(folder: Path) -> list[str]:
        small_model(folder / "a.safetensors")
        written(folder / "kept", b"kept")
        (folder / "out").mkdir()
        (folder / "out" / "m.safetensors").symlink_to("../kept")
        return [*CONVERT, "--force"]

    yield Input("safetensors", "a link where the result goes", over, EITHER)
