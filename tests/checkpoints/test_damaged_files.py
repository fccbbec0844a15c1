"""Damaged, forged and endless files: one clear line, and soon."""

import struct
import time
import zipfile

import pytest
import torch

from checkpoints.samples import steps, text
from unbackdoor.checkpoints import pickles
from unbackdoor.checkpoints.inert import Foreign
from unbackdoor.checkpoints.untrusted import read_torch
from unbackdoor.core.errors import CheckpointError


def test_damaged_files_get_one_line(tmp_path, saved):
    whole = saved({"a": torch.ones(1000)}).read_bytes()
    legacy = saved({"a": torch.ones(1000)}, "legacy").read_bytes()
    pieces = (whole[: len(whole) // 2], b"", b"no pickle", b"PK\x03\x04" + bytes(90))
    for damaged in (*pieces, legacy[:-100], legacy[:200]):
        (tmp_path / "a.pt").write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"damaged, truncated|more than its size") as told:
            read_torch(tmp_path / "a.pt")
        assert "\n" not in str(told.value)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        read_torch(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="not a file"):
        read_torch(tmp_path)


def rebuilt(saved, change):
    """A torch file whose zip members went through `change(name, bytes)`, which may give several."""
    path = saved({"a": torch.arange(100.0)})
    with zipfile.ZipFile(path) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members:
            for info, bytes_ in change(name, data):
                archive.writestr(info, bytes_)
    return path


def test_a_tensor_cannot_reach_beyond_its_storage(saved):
    def shorter(name, data):
        yield name, data[:-4] if "/data/" in name else data

    assert type(read_torch(rebuilt(saved, shorter))["a"]) is Foreign


def test_compressed_parts_are_refused(saved):
    def bomb(name, data):
        info = zipfile.ZipInfo(name)
        info.compress_type = zipfile.ZIP_DEFLATED if "/data/" in name else zipfile.ZIP_STORED
        yield info, bytes(50_000_000) if "/data/" in name else data

    path = rebuilt(saved, bomb)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(CheckpointError, match="compressed"):
        read_torch(path)


def test_a_member_that_claims_more_than_the_file_is_refused(saved):
    path = saved({"a": torch.arange(1000.0)})
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02", 0, data.rindex(b"/data/0"))
    struct.pack_into("<II", data, at + 20, 3 * 2**30, 3 * 2**30)
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="more than its size"):
        read_torch(path)


DEEP = 300_000


@pytest.mark.parametrize(
    "code",
    {
        "a deep tuple as a key": b"}" + b")" + b"\x85" * DEEP + b"Ns",
        "a deep tuple in a set": b"\x8f(" + b")" + b"\x85" * DEEP + b"\x90",
        "shared tuples of 2^60 leaves": b"}" + b")" + b"2\x86" * 60 + b"Ns",
        "a name in punycode": (
            b"c_codecs\nencode\nX" + struct.pack("<I", 200_000) + b"a" * 200_000
            + text("punycode") + b"\x86R"
        ),
        "a bytearray of 10 GB": b"cbuiltins\nbytearray\n\x8a\x05" + (10**10).to_bytes(5, "little")
        + b"\x85R",
        "a list that is copied many times": b"ccollections\nOrderedDict\nq\x00](" + b"N" * 50_000
        + b"eq\x01" + b"h\x00h\x01\x85R0" * 20_000,
        "numbers of 5,000 digits": b"L" + b"9" * 5000 + b"L\n",
    }.items(),
    ids=lambda pair: pair[0],
)  # fmt: skip
def test_what_costs_more_than_it_is_worth_ends_soon(tmp_path, code):
    (tmp_path / "a.pt").write_bytes(steps(code[1]))
    start = time.monotonic()
    try:
        read_torch(tmp_path / "a.pt")
    except CheckpointError as error:
        assert "\n" not in str(error)
    assert time.monotonic() - start < 20


def test_a_pickle_of_too_many_steps_is_refused(saved, monkeypatch):
    monkeypatch.setattr(pickles, "MOST_OPCODES", 1000)
    with pytest.raises(CheckpointError, match="more than 1000 steps"):
        read_torch(saved(list(range(2000)), "pickle4"))
