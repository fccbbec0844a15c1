"""Files of `torch.save`, TorchScript and `pickle`, opened without running anything in them.

What a file is stands in its first bytes. Its pickles are read by our own interpreter (`pickles`),
which makes numbers and plain containers (`builders`) and inert stand-ins of all else (`inert`);
its storages are bytes of the file, counted before they are read.
"""

from __future__ import annotations

import io
import mmap
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..core.errors import CheckpointError
from ..core.files import existing
from .builders import Storage, builders, dtype_of, numbers_in
from .inert import Foreign
from .pickles import Interpreter

ZIP, TAR_AT, TAR = b"PK\x03\x04", 257, b"ustar"
MAGIC = 0x1950A86A20F9469CFC6C
"""What the first pickle of an older torch file holds."""

TORCH, SCRIPT, LEGACY, PICKLE = (
    "a file of torch.save",
    "a TorchScript archive",
    "a file of torch.save before torch 1.6",
    "a pickle",
)


NO_MODELS = {
    b"version https://git-lfs": "is a pointer of Git LFS, not the file itself: run 'git lfs pull'",
    b"\x1f\x8b": "is compressed (gzip): unpack it first",
    b"<": "is a web page or XML, not a model: the download went wrong",
    b"{": "is JSON text, not a model; for a folder of the hub give the folder",
}
"""How files begin that people take for models, and what is said of them."""


@dataclass(frozen=True, eq=False)
class Opened:
    """What a file holds, which kind of file it is, and the names in it that only code could use.

    `value` is made of plain containers, numbers, tensors on the CPU, arrays, and `Foreign` and
    `Global` stand-ins, which do nothing.
    """

    value: Any
    kind: str
    foreign: tuple[str, ...]


def read_torch(path: Path | str) -> Any:
    """The value in a file of `torch.save`, as `open_torch` gives it."""
    return open_torch(path).value


def open_torch(path: Path | str) -> Opened:
    """What a file of `torch.save`, TorchScript or `pickle` holds. Nothing in it is run.

    Raises `CheckpointError` for one that is missing, damaged, or costs more than its size allows.
    """
    path = existing(path)
    with one_line(path), path.open("rb") as file:
        start = file.read(TAR_AT + len(TAR))
        if start.startswith(ZIP):
            return _zip(file)
        if start[TAR_AT:] == TAR:
            raise CheckpointError(
                "is a tar archive: unpack it, and give the file in it (torch before 0.1.10 wrote "
                "such files itself: load one there, and save its state_dict() anew)"
            )
        for begins, told in NO_MODELS.items():
            if start.lstrip()[:40].lower().startswith(begins):
                raise CheckpointError(told)
        if not start:
            raise CheckpointError("is empty: damaged, truncated or never written")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            return _Sequence(whole, len(whole)).opened()


@contextmanager
def one_line(path: Path) -> Iterator[None]:
    """Whatever is raised inside becomes a `CheckpointError` that begins with `path`."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception:  # noqa: BLE001 - a stranger's bytes can make a reader raise anything
        raise CheckpointError(
            f"{path} cannot be read: it is damaged, truncated or no file of torch.save"
        ) from None


def _zip(file: IO[bytes]) -> Opened:
    size = file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        inner = min((n for n in names if Path(n).name == "data.pkl"), key=len, default=None)
        if inner is None:
            raise CheckpointError(
                "is a zip file without a model (no data.pkl in it); if there is a model file in "
                "it, unpack it"
            )
        root = inner.removesuffix("data.pkl")
        read = _Members(archive, size).read
        if f"{root}byteorder" in names and read(f"{root}byteorder") == b"big":
            raise CheckpointError("was written on a big-endian machine; save it anew on another")
        storages: dict[str, Storage] = {}

        def persistent(wanted: Any) -> Storage | Foreign:
            _, kind, name, _, _ = wanted
            if name not in storages:
                dtype = dtype_of(kind)
                if dtype is None:
                    return Foreign(str(kind)[:80])
                storages[name] = Storage(dtype, numbers_in(read(f"{root}data/{name}"), dtype))
            return storages[name]

        machine = _machine(persistent)
        value = machine.read(io.BytesIO(read(inner)))
        kind = SCRIPT if f"{root}constants.pkl" in names else TORCH
        return Opened(value, kind, tuple(sorted(machine.foreign)))


class _Members:
    """Reads members of a zip file that hold what they claim: together no more than the file."""

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self.archive, self.left = archive, size

    def read(self, name: str) -> bytes:
        info = self.archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError("holds compressed parts, which torch never writes")
        self.left -= info.file_size
        if self.left < 0:
            raise CheckpointError("claims to hold more than its size")
        return self.archive.read(info)


class _Sequence:
    """Pickles one after another, and raw storages after them, as torch wrote before 1.6."""

    def __init__(self, file: Any, size: int, depth: int = 0) -> None:
        self.file, self.size, self.depth = file, size, depth
        self.storages: dict[str, Storage] = {}
        self.machine = _machine(self._persistent, self._nested)

    def opened(self) -> Opened:
        first = self.machine.read(self.file)
        if first != MAGIC:
            return Opened(first, PICKLE, tuple(sorted(self.machine.foreign)))
        self.machine.read(self.file)  # the version
        system = self.machine.read(self.file)
        if isinstance(system, dict) and system.get("little_endian") is False:
            raise CheckpointError("was written on a big-endian machine; save it anew on another")
        start = self.file.tell()
        # The storages stand behind the pickle that needs them: it is read twice.
        self.machine.read(self.file)
        for name in self.machine.read(self.file):
            self._read_storage(name)
        self.file.seek(start)
        value = self.machine.read(self.file)
        return Opened(value, LEGACY, tuple(sorted(self.machine.foreign)))

    def _read_storage(self, name: str) -> None:
        dtype = self.storages[name].dtype
        count = int.from_bytes(self.file.read(8), "little")
        length = count * dtype.itemsize
        if length > self.size - self.file.tell():
            raise CheckpointError("claims to hold more than its size")
        self.storages[name] = Storage(dtype, numbers_in(self.file.read(length), dtype))

    def _persistent(self, wanted: Any) -> Any:
        if wanted[0] == "module":
            return wanted[1]
        _, kind, name, _, _, *view = wanted
        dtype = dtype_of(kind)
        if dtype is None:
            raise CheckpointError(f"holds numbers of a kind that is not read: {str(kind)[:80]}")
        whole = self.storages.setdefault(name, Storage(dtype, None))
        if not view or view[0] is None or whole.numbers is None:
            return whole
        _, offset, count = view[0]
        return Storage(whole.dtype, whole.numbers[offset : offset + count])

    def _nested(self, raw: Any) -> Any:
        """The storage in a file of torch inside a pickle, as plain pickles hold tensors."""
        if self.depth or not isinstance(raw, bytes):
            raise ValueError("a file in a file in a file")
        inner = _Sequence(io.BytesIO(raw), len(raw), self.depth + 1)
        inner.machine.left = self.machine.left
        try:
            return inner.opened().value
        finally:
            self.machine.left = inner.machine.left
            self.machine.foreign |= inner.machine.foreign


def _machine(
    persistent: Callable[[Any], Any], nested: Callable[[bytes], Any] | None = None
) -> Interpreter:
    machine = Interpreter({}, persistent)
    machine.builders = builders(machine.call, nested or _no_file)
    return machine


def _no_file(raw: bytes) -> Any:
    raise ValueError("a file in a file")
