"""NumPy archives that lie about what they hold, or show what they should not."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .inputs import CANARY, DIGITS, EITHER, EVALUATE, REFUSED, TEXTS, Input
from .samples import small_model, touches


def npy(header: str, data: bytes = b"", version: int = 1) -> bytes:
    """An array file with this header, whatever it says."""
    raw = header.encode("utf-8", "surrogatepass")
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(raw)) + raw + data


def told(descr: str = "'|u1'", shape: str = "(1, 16, 16, 3)", fortran: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


IMAGE = npy(told(), bytes(768))
LABEL = npy(told("'<i8'", "(1,)"), bytes(8))


def saved(array: Any, **said: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **said)
    return file.getvalue()


X: dict[str, bytes] = {
    "a shape of 10^12": npy(
        told(shape="(10**12, 16, 16, 3)".replace("10**12", str(10**12))), bytes(768)
    ),
    "a shape of 5,000 digits": npy(told(shape=f"({DIGITS}, 16, 16, 3)"), bytes(768)),
    "a shape of -1": npy(told(shape="(-1, 16, 16, 3)"), bytes(768)),
    "a shape that wraps": npy(told(shape=f"({2**62}, 16, 16, 3)"), bytes(768)),
    "a header that is code": npy(f"__import__('os').system('touch {CANARY}')\n", bytes(768)),
    "a header that calls": npy(told(shape=f"(open('{CANARY}', 'w'), 1)"), bytes(768)),
    "a header nested 20,000 deep": npy("(" * 20_000 + ")" * 20_000),
    "objects": saved(np.array([touches(Path(CANARY))], dtype=object), allow_pickle=True),
    "objects without a header": pickle.dumps(touches(Path(CANARY))),
    "a record of objects": npy(told("[('a', '|O')]", "(1,)"), bytes(8)),
    "texts": saved(np.array(["a" * 100])),
    "dates": saved(np.array(["2026"], "M8[Y]")),
    "texts of 2^31 letters": npy(told("'<U2147483647'", "(1,)"), bytes(8)),
    "complex numbers": saved(np.ones((1, 16, 16, 3), complex)),
    "NaN": saved(np.full((1, 16, 16, 3), np.nan)),
    "infinite": saved(np.full((1, 16, 16, 3), np.inf)),
    "long doubles": saved(np.ones((1, 16, 16, 3), np.longdouble)),
    "half floats": saved(np.ones((1, 16, 16, 3), np.float16)),
    "big-endian": saved(np.ones((1, 16, 16, 3), ">i4")),
    "booleans": saved(np.ones((1, 16, 16, 3), bool)),
    "a column of nothing": saved(np.ones((1, 0, 0, 3), "u1")),
    "no images": saved(np.ones((0, 16, 16, 3), "u1")),
    "33 sides": saved(np.ones((1,) * 33, "u1")),
    "a lone number": saved(np.array(1)),
    "an image of 10^6 by 1": saved(np.zeros((1, 10**6, 1, 3), "u1")),
    "no bytes": b"",
    "a version of 99": npy(told(), bytes(768), 99),
    "a subtype of 10^9": npy(told("('|u1', (1000000000,))", "(1,)"), bytes(768)),
}
Y: dict[str, bytes] = {
    "a label of 10^10": saved(np.array([10**10])),
    "a label of 2^63": saved(np.array([2**63], "u8")),
    "a label of -1": saved(np.array([-1])),
    "a label of NaN": saved(np.array([np.nan])),
    "a label of 1e300": saved(np.array([1e300])),
    "labels of objects": saved(np.array([None]), allow_pickle=True),
    "half a label": saved(np.array([0.5])),
    "labels that are texts": saved(np.array(["a"])),
    "too many labels": saved(np.zeros(100, int)),
    "a label a million wide": saved(np.zeros((1, 10**6))),
}
CLASSES: dict[str, bytes] = {
    "objects": saved(np.array([touches(Path(CANARY))] * 3, dtype=object), allow_pickle=True),
    "of 10^6 names": saved(np.array(["x"] * 10**6)),
    "of no name": saved(np.array([], str)),
    "of bytes": saved(np.array([b"\xff\x1b[31m", b"b", b"c"])),
    "of floats": saved(np.ones(3)),
}


def archive(members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as made:
        for name, data in members.items():
            made.writestr(name, data)
    return file.getvalue()


def bomb() -> bytes:
    """3 GiB of black images in 3 MiB, which say so; and labels."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made:
        with made.open("x.npy", "w", force_zip64=True) as part:
            part.write(npy(told(shape=f"({4 * 2**20}, 16, 16, 3)")))
            for _ in range(192):
                part.write(bytes(2**24))
        made.writestr("y.npy", saved(np.zeros(4 * 2**20, int)))
    return file.getvalue()


def lying() -> bytes:
    """The same claim in the directory of the archive only."""
    data = bytearray(archive({"x.npy": IMAGE, "y.npy": LABEL}))
    at = data.index(b"PK\x01\x02")
    struct.pack_into("<II", data, at + 20, 768, 2**32 - 2)
    return bytes(data)


ARCHIVES: dict[str, Callable[[], bytes]] = {
    "3 GiB in a small archive": bomb,
    "a directory that lies": lying,
    "names that are paths": lambda: archive({"../../x.npy": IMAGE, "/tmp/y.npy": LABEL}),
    "an archive of no arrays": lambda: archive({"x.npy": b"cos\nsystem\n.", "y.npy": b"\x80\x04."}),
    "100,000 members": lambda: archive({f"{n}": b"" for n in range(100_000)}),
    "one array": lambda: saved(np.zeros(3)),
    "a pickle": lambda: pickle.dumps(touches(Path(CANARY))),
    "half an archive": lambda: archive({"x.npy": IMAGE, "y.npy": LABEL})[:700],
    "an archive in bz2": lambda: archive({"x.npy": IMAGE, "y.npy": LABEL}, zipfile.ZIP_BZIP2),
}


def _file(name: str, make: Callable[[], bytes], expected: frozenset[int] = REFUSED) -> Input:
    def made(folder: Path) -> list[str]:
        small_model(folder / "m.safetensors")
        (folder / "a.npz").write_bytes(make())
        return [*EVALUATE, "a.npz"]

    return Input("npz", name, made, expected)


def inputs() -> Iterator[Input]:
    harmless = ("half floats", "long doubles", "big-endian", "booleans", "an image of")
    for name, data in X.items():
        expected = EITHER if name.startswith(harmless) else REFUSED
        yield _file(
            f"images: {name}", lambda d=data: archive({"x.npy": d, "y.npy": LABEL}), expected
        )
    for name, data in Y.items():
        yield _file(f"labels: {name}", lambda d=data: archive({"x.npy": IMAGE, "y.npy": d}), EITHER)
    for name, data in CLASSES.items():
        whole = {"x.npy": IMAGE, "y.npy": LABEL, "classes.npy": data}
        yield _file(f"classes {name}", lambda w=whole: archive(w), EITHER)
    for name, make in ARCHIVES.items():
        yield _file(name, make, EITHER if "bz2" in name else REFUSED)
    for place, (name, text) in enumerate(TEXTS.items()):
        lone = text.replace("\0", "").encode("utf-8", "replace").decode()[:10_000]
        if place % 2:
            classes = np.array([lone, "b", "c"])
            whole = {"x.npy": IMAGE, "y.npy": LABEL, "classes.npy": saved(classes)}
            yield _file(f"{name} as a class", lambda w=whole: archive(w), EITHER)
        else:
            whole = {f"{lone}.npy": IMAGE, "z.npy": LABEL}
            yield _file(f"{name} as the name of an array", lambda w=whole: archive(w))
