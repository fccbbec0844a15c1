import io
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

from hostile import Runs, touches
from unbackdoor.checkpoints.untrusted import read_torch
from unbackdoor.core.errors import CheckpointError, RefusedFileError
from unbackdoor.core.files import sha256


def ways():
    """Every format a torch pickle comes in, and plain pickles of every protocol."""
    yield "zip", lambda value, path: torch.save(value, path)
    yield (
        "legacy",
        lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=False),
    )
    for protocol in range(6):
        yield (
            f"pickle{protocol}",
            lambda value, path, p=protocol: path.write_bytes(pickle.dumps(value, p)),
        )


WAYS = dict(ways())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("nest", [lambda x: x, lambda x: {"model": {"a": [1, (x,)]}}])
def test_a_file_that_would_run_code_is_refused_and_runs_nothing(tmp_path, way, nest):
    marker = tmp_path / "marker"
    WAYS[way](nest(touches(marker)), tmp_path / "a.pt")
    with pytest.raises(RefusedFileError, match=r"(posix|nt|os)\.system") as caught:
        read_torch(tmp_path / "a.pt")
    assert "\n" not in str(caught.value)
    assert not marker.exists()
    pickle.loads(pickle.dumps(touches(marker)))
    assert marker.exists(), "the pickle of this test runs nothing: it proves nothing"


@pytest.mark.parametrize("global_", [eval, getattr, torch.hub.load, np.load, io.open])
def test_other_globals_are_named(tmp_path, global_):
    torch.save({"a": Runs(global_, "1")}, tmp_path / "a.pt")
    with pytest.raises(RefusedFileError, match=global_.__name__):
        read_torch(tmp_path / "a.pt")


def test_a_class_of_ones_own_is_refused_by_name(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pt")
    with pytest.raises(RefusedFileError, match=r"torch\.nn\.modules\.linear\.Linear") as caught:
        read_torch(tmp_path / "a.pt")
    assert "OrderedDict" not in str(caught.value)


@pytest.mark.parametrize(
    "array", [np.array([None]), np.array([{"a": 1}, "b"]), np.array(["a"]), np.zeros(1, "i4,O")]
)
def test_arrays_of_anything_but_numbers_are_refused(tmp_path, array):
    torch.save({"a": array}, tmp_path / "a.pt")
    with pytest.raises(RefusedFileError, match="only numbers"):
        read_torch(tmp_path / "a.pt")


def test_an_object_array_that_holds_code_runs_nothing(tmp_path):
    marker = tmp_path / "marker"
    torch.save(np.array([touches(marker)], dtype=object), tmp_path / "a.pt")
    with pytest.raises(RefusedFileError):
        read_torch(tmp_path / "a.pt")
    assert not marker.exists()


class Forged:
    """A float64 dtype whose pickled state says that it holds objects."""

    def __init__(self, state):
        self.state = state

    def __reduce__(self):
        return np.dtype, ("f8", False, True), self.state


@pytest.mark.parametrize("state", [(3, "|", None, ("a",), {"a": 1}, 8, 1, 63), (3, "&")])
def test_a_forged_dtype_state_is_refused(tmp_path, state):
    torch.save(Forged(state), tmp_path / "a.pt")
    with pytest.raises(RefusedFileError, match="only numbers"):
        read_torch(tmp_path / "a.pt")


@pytest.mark.parametrize("new", [True, False])
def test_tensors_numbers_and_containers_come_back_plain(tmp_path, new):
    square = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    value = {
        "t": torch.nn.Parameter(torch.ones(2)),
        "o": OrderedDict(x=1),
        np.int64(3): [square, square.astype(">i2"), np.float64(2.5), np.array(True)],
    }
    torch.save(value, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
    found = read_torch(tmp_path / "a.pt")
    assert type(found["t"]) is torch.Tensor and not found["t"].requires_grad
    assert type(found["o"]) is dict and found["o"] == {"x": 1}
    first, second, third, fourth = found[3]
    assert np.array_equal(first, square) and first.dtype == np.float64
    assert np.array_equal(second, square) and second.dtype == ">i2"
    assert third == 2.5 and fourth.shape == () and bool(fourth)


def test_a_container_that_holds_itself_is_no_model_file(tmp_path):
    loop = []
    loop.append(loop)
    torch.save(loop, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="holds itself"):
        read_torch(tmp_path / "a.pt")


def test_damaged_files_get_one_line(tmp_path):
    torch.save({"a": torch.ones(1000)}, tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no pickle", b"PK\x03\x04" + bytes(90)):
        (tmp_path / "a.pt").write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged, truncated") as caught:
            read_torch(tmp_path / "a.pt")
        assert "\n" not in str(caught.value) and not isinstance(caught.value, RefusedFileError)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        read_torch(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="not a file"):
        read_torch(tmp_path)


class Known:
    pass


def test_what_other_packages_call_safe_counts_for_nothing_here(tmp_path):
    torch.save(Known(), tmp_path / "a.pt")
    with torch.serialization.safe_globals([Known]):
        before = set(torch.serialization.get_safe_globals())
        with pytest.raises(RefusedFileError, match="Known"):
            read_torch(tmp_path / "a.pt")
        assert set(torch.serialization.get_safe_globals()) == before


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a").startswith("ba7816bf8f01cfea")
    with pytest.raises(CheckpointError):
        sha256(tmp_path / "b")
