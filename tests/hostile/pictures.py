"""Images and class folders: decoders that must not run, bombs, odd names, links and loops."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from PIL import Image

from . import opcodes as op
from .inputs import CANARY, EITHER, EVALUATE, TEXTS, Input, sparse, written
from .samples import bench_result, png, small_model

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(canary) (w) file\n"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def hand_made(
    width: int, height: int, *more: bytes, data: bytes = b"", depth: int = 8, color: int = 2
) -> bytes:
    """A PNG that claims to be of this size, whatever its data are."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    body = chunk(b"IDAT", data or zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + body + chunk(b"IEND", b"")


def picture(kind: str, mode: str = "RGB", side: int = 16, **said: object) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (side, side)).save(file, kind, **said)
    return file.getvalue()


def _frames() -> bytes:
    file = io.BytesIO()
    frames = [Image.new("P", (16, 16), n % 250) for n in range(1_500)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def _exif(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


def _bomb() -> bytes:
    """8,000 x 8,000 black pixels in 190 KB: within the bound of one image."""
    return hand_made(8_000, 8_000, data=zlib.compress((b"\0" + bytes(24_000)) * 8_000, 9))


IMAGES: dict[str, Callable[[], bytes]] = {
    "PostScript": lambda: POSTSCRIPT,
    "a PDF": lambda: b"%PDF-1.4\n1 0 obj<</OpenAction<</S/Launch>>>>endobj",
    "SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg" onload="hostile()"/>',
    "a pickle": lambda: op.steps(op.called("os.system", op.text(f"touch {CANARY}"))),
    "HTML": lambda: b"<script>hostile()</script>",
    "an icon": lambda: picture("ICO"),
    "a PCX": lambda: picture("PCX"),
    "a TGA": lambda: picture("TGA"),
    "a JPEG 2000": lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40),
    "a WMF": lambda: b"\xd7\xcd\xc6\x9a" + bytes(40),
    "a FITS": lambda: b"SIMPLE  =                    T" + bytes(90),
    "2^31 pixels a side": lambda: hand_made(2**31 - 1, 2**31 - 1),
    "60,000 pixels a side": lambda: hand_made(60_000, 60_000),
    "no pixels": lambda: hand_made(0, 0),
    "a line of 2^26": lambda: hand_made(2**26, 1),
    "64 million black pixels": _bomb,
    "16 bits a channel": lambda: hand_made(2, 2, depth=16, color=0, data=zlib.compress(bytes(10))),
    "data of nothing": lambda: hand_made(16, 16, data=b"x"),
    "a text that unpacks to 100 MB": lambda: hand_made(
        16,
        16,
        chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8))),
        data=zlib.compress((b"\0" + bytes(48)) * 16),
    ),
    "a profile that unpacks to 100 MB": lambda: hand_made(
        16,
        16,
        chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(10**8))),
        data=zlib.compress((b"\0" + bytes(48)) * 16),
    ),
    "a million chunks": lambda: hand_made(16, 16, chunk(b"tEXt", b"a\0b") * 300_000),
    "a broken checksum": lambda: png()[:40] + b"\0" + png()[41:],
    "half a file": lambda: png()[:60],
    "no bytes": lambda: b"",
    "one byte": lambda: b"\x89",
    "a palette": lambda: picture("PNG", "P"),
    "one bit": lambda: picture("PNG", "1"),
    "inks": lambda: picture("JPEG", "CMYK"),
    "floats": lambda: picture("TIFF", "F"),
    "2,000 frames": _frames,
    "a GIF of 65,535": lambda: b"GIF89a\xff\xff\xff\xff\x00\x00\x00,",
    "a TIFF that loops": lambda: (
        b"II*\0\x08\0\0\0\x01\0\x00\x01\x04\0\x01\0\0\0\x08\0\0\0\x08\0\0\0"
    ),
    "a TIFF of 2^32 tags": lambda: (
        b"II*\0\x08\0\0\0\xff\xff" + b"\x00\x01\x04\0\xff\xff\xff\xff\x08\0\0\0" * 9
    ),
    "a TIFF of odd tags": lambda: picture("TIFF", tiffinfo={270: "\x1b[31m" * 1000, 33432: "=cmd"}),
    "a turn of 9": lambda: picture("JPEG", exif=_exif(9)),
    "a turn of 6": lambda: picture("JPEG", exif=_exif(6)),
    "EXIF that is broken": lambda: picture(
        "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(20)
    ),
    "a BMP of -2^31": lambda: (
        b"BM" + bytes(12) + struct.pack("<IiiHHIIiiII", 40, 16, -(2**31), 1, 24, 0, 0, 0, 0, 0, 0)
    ),
    "a PPM of 5,000 digits": lambda: b"P6 " + b"9" * 5_000 + b" 1 255\n",
    "a PPM of NaN": lambda: b"PF\n16 16\nnan\n" + bytes(3_072),
    "a WebP of nothing": lambda: b"RIFF\xff\xff\xff\xffWEBPVP8X" + bytes(30),
    "an AVIF of nothing": lambda: b"\0\0\0\x1cftypavif" + bytes(40),
}


def _image(name: str, make: Callable[[], bytes]) -> Input:
    def made(folder: Path) -> list[str]:
        small_model(folder / "m.safetensors")
        for label, data in (("cat", make()), ("dog", png()), ("eel", png(9))):
            written(folder / "images" / label / "a.png", data)
        return [*EVALUATE, "images"]

    return Input("image", name, made, EITHER)


def _loop(root: Path) -> None:
    (root / "cat" / "again").symlink_to("..")
    (root / "cat" / "dog").symlink_to("../dog")


def _links(root: Path) -> None:
    for n in range(30):  # 2^30 ways through 30 folders
        (root / "cat" / f"f{n}").mkdir()
        for side in "ab":
            (root / "cat" / f"f{n}" / side).symlink_to(f"../f{n + 1}")


def _deep(root: Path) -> None:
    here = os.open(root / "cat", os.O_RDONLY)
    for _ in range(2_000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def _many(root: Path) -> None:
    for n in range(3_000):
        (root / f"class {n}").mkdir()


def _named(root: Path, told: bytes) -> None:
    written(Path(os.fsdecode(os.fsencode(root) + b"/" + told)) / "a.png", png())


FOLDERS: dict[str, Callable[[Path], object]] = {
    "links that loop": _loop,
    "30 folders of two links each": _links,
    "1,500 folders in one another": _deep,
    "3,000 empty classes": _many,
    "a link to the root of the system": lambda root: (root / "cat" / "all").symlink_to("/"),
    "a link to /proc": lambda root: (root / "cat" / "all").symlink_to("/proc"),
    "a link to itself": lambda root: (root / "cat" / "a").symlink_to("a"),
    "a link to nowhere": lambda root: (root / "cat" / "b.png").symlink_to("/nowhere/b.png"),
    "an image that is a link to a secret": lambda root: (root / "cat" / "b.png").symlink_to(
        "/etc/passwd"
    ),
    "an image that never ends": lambda root: (root / "cat" / "b.png").symlink_to("/dev/zero"),
    "an image that is random": lambda root: (root / "cat" / "b.png").symlink_to("/dev/urandom"),
    "an image that is a pipe": lambda root: os.mkfifo(root / "cat" / "b.png"),
    "an image that is a folder": lambda root: (root / "cat" / "b.png").mkdir(),
    "an image that is a terminal": lambda root: (root / "cat" / "b.png").symlink_to("/dev/tty"),
    "an image of 10 GB of nothing": lambda root: sparse(root / "cat" / "b.png", 10**10, png()),
    "a BMP of 10 GB of nothing": lambda root: sparse(
        root / "cat" / "b.bmp", 10**10, picture("BMP")
    ),
    "a class that is a link": lambda root: (root / "fox").symlink_to("cat"),
    "a name that is no text": lambda root: _named(root, b"\xff\xfe\x1b[31m"),
    "a name of 255 letters": lambda root: _named(root, b"x" * 255),
    "numbers of two kinds": lambda root: _named(root, "٣".encode()),
    "a huge number": lambda root: _named(root, b"9" * 200),
    "parts and classes": lambda root: _named(root, b"train"),
}


def _folder(name: str, make: Callable[[Path], object]) -> Input:
    def made(folder: Path) -> list[str]:
        small_model(folder / "m.safetensors")
        for label in ("cat", "dog", "eel"):
            written(folder / "images" / label / "a.png", png())
        make(folder / "images")
        return [*EVALUATE, "images"]

    return Input("folder", name, made, EITHER)


def _named_by(name: str, text: str) -> Iterator[Input]:
    told = text.replace("/", "\u2044").replace("\0", "")[:80]
    raw = told.encode("utf-8", "surrogatepass")[:200]
    yield _folder(f"{name} as a class", lambda root: _named(root, raw))

    def file(root: Path) -> None:
        written(Path(os.fsdecode(os.fsencode(root / "cat") + b"/" + raw + b".png")), b"no image")

    yield _folder(f"{name} as a file", file)


def _result(name: str, change: dict[str, object]) -> Input:
    """The stamped images of a BackdoorBench result, which names files."""

    def make(folder: Path) -> list[str]:
        small_model(folder / "m.safetensors")
        bench_result(folder, {"a": torch.ones(1)}, [(0, 1), (0, 2)])
        entries = {0: {"path": "x/bd_test_dataset/1/0.png", "other_info": [0, 1]} | change}
        test = {"bd_data_container": {"data_dict": change.get("entries", entries)}}
        torch.save({"num_classes": change.get("count", 3), "bd_test": test}, folder / "r.pt")
        return ["evaluate", "m.safetensors", "--triggered", "r.pt"]

    return Input("backdoorbench", name, make, EITHER)


def _results() -> Iterator[Input]:
    for path in (
        "../../../etc/passwd",
        "a/../..",
        "/etc/passwd",
        "C:\\x\\y",
        "..\\..\\x",
        "",
        "a/b\0",
        "\x1b[31m/x",
    ):
        yield _result(f"an image called {path!r}", {"path": path})
    for name, info in {
        "goals that are texts": ["a", "b"],
        "a goal of 10^9": [10**9, 1],
        "a label of 10^9": [0, 10**9],
        "a goal of -1": [-1, 1],
        "no goals": [],
        "a label beyond int64": [0, 2**70],
        "goals in dicts": {},
    }.items():
        yield _result(name, {"other_info": info})
    yield _result("a list of images that is a text", {"entries": "../../x"})
    yield _result("names that are no numbers", {"entries": {"a": {}, "b": {}}})
    yield _result("a number of classes that is a text", {"count": "3; x"})
    yield _result("10^12 classes", {"count": 10**12})
    yield _result("a number of classes that is NaN", {"count": float("nan")})


def inputs() -> Iterator[Input]:
    for name, make in IMAGES.items():
        yield _image(name, make)
    for name, write in FOLDERS.items():
        yield _folder(name, write)
    for name, text in TEXTS.items():
        yield from _named_by(name, text)
    yield from _results()
