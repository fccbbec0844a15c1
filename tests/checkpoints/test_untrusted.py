"""Strangers' files: what opens, what is kept out, what it may cost. Nothing in them is run."""

import collections
import datetime
import io
import operator
import pickle
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from checkpoints.samples import WAYS, steps, text
from hostile import Runs, touches
from unbackdoor.checkpoints.inert import Foreign, Global
from unbackdoor.checkpoints.untrusted import open_torch, read_torch
from unbackdoor.core.errors import CheckpointError
from unbackdoor.core.files import sha256


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("nest", [lambda x: x, lambda x: {"model": {"a": [1, (x,)]}}])
def test_a_call_in_a_file_is_a_label_and_runs_nothing(tmp_path, saved, way, nest):
    marker = tmp_path / "marker"
    opened = open_torch(saved(nest(touches(marker)), way))
    assert not marker.exists()
    assert any(name.endswith(".system") for name in opened.foreign)
    pickle.loads(pickle.dumps(touches(marker)))
    assert marker.exists(), "the pickle of this test runs nothing: it proves nothing"


@pytest.mark.parametrize(
    "function",
    [
        *(eval, exec, getattr, setattr, __import__, open, io.open, type, map),
        *(torch.hub.load, torch.load, np.load, operator.attrgetter, operator.methodcaller),
        *(collections.namedtuple, pickle.loads, Path, bytes, print),
    ],
)
def test_no_name_in_a_file_is_called(saved, function, monkeypatch):
    found = read_torch(saved({"a": Runs(function, "1", "2")}))["a"]
    assert isinstance(found, Foreign) and found.arguments == ("1", "2")
    assert found.name.endswith(function.__name__)


SYSTEM = text("os") + text("system") + b"\x93"


@pytest.mark.parametrize(
    "code",
    {
        "reduce": SYSTEM + text("x") + b"\x85R",
        "newobj": SYSTEM + text("x") + b"\x85\x81",
        "newobj_ex": SYSTEM + text("x") + b"\x85}\x92",
        "inst": b"(" + text("x") + b"ios\nsystem\n",
        "obj": b"(" + SYSTEM + text("x") + b"o",
        "global": b"cos\nsystem\n" + text("x") + b"\x85R",
        "extension": b"\x82\x01" + text("x") + b"\x85R",
        "built": SYSTEM + text("x") + b"\x85R}" + text("__class__") + SYSTEM + b"sb",
        "nested name": text("torch") + text("hub.os.system") + b"\x93" + text("x") + b"\x85R",
        "a call of a call": SYSTEM + b")R" + text("x") + b"\x85R",
    }.items(),
    ids=lambda pair: pair[0],
)
def test_every_opcode_that_calls_makes_a_label(tmp_path, code):
    (tmp_path / "a.pt").write_bytes(steps(code[1]))
    assert type(read_torch(tmp_path / "a.pt")) is Foreign


def test_the_state_of_a_built_dict_or_tensor_is_left_alone(saved):
    class Odd(OrderedDict):
        pass

    value = OrderedDict(a=torch.ones(2))
    value._metadata = {"x": touches("nowhere")}
    assert torch.equal(read_torch(saved(value))["a"], torch.ones(2))
    assert type(read_torch(saved({"b": Global}))["b"]) is Global


@pytest.mark.parametrize(
    "array", [np.array([None]), np.array([{"a": 1}, "b"]), np.array(["a"]), np.zeros(1, "i4,O")]
)
@pytest.mark.parametrize("way", ["zip", "pickle2", "pickle5"])
def test_arrays_of_anything_but_numbers_are_labels(saved, array, way):
    assert type(read_torch(saved({"a": array}, way))["a"]) is Foreign


class Forged:
    """A float64 dtype whose pickled state says that it holds objects."""

    def __init__(self, state):
        self.state = state

    def __reduce__(self):
        return np.dtype, ("f8", False, True), self.state


@pytest.mark.parametrize("state", [(3, "|", None, ("a",), {"a": 1}, 8, 1, 63), (3, "&")])
def test_a_forged_dtype_state_is_a_label(saved, state):
    assert type(read_torch(saved(Forged(state)))) is Foreign


@pytest.mark.parametrize("way", WAYS)
def test_tensors_numbers_and_containers_come_back_plain(saved, way):
    square = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    value = {
        "t": torch.nn.Parameter(torch.ones(2)),
        "v": torch.arange(12).reshape(3, 4)[1:, ::2],
        "h": torch.full((2,), 0.5, dtype=torch.bfloat16),
        "o": OrderedDict(x=1),
        "e": torch.empty(0, 3),
        np.int64(3): [square, square.astype(">i2"), np.float64(2.5), np.array(True)],
    }
    found = read_torch(saved(value, way))
    assert type(found["t"]) is torch.Tensor and not found["t"].requires_grad
    assert torch.equal(found["v"], value["v"]) and torch.equal(found["h"], value["h"])
    assert type(found["o"]) is dict and found["o"] == {"x": 1} and found["e"].shape == (0, 3)
    first, second, third, fourth = found[3]
    assert np.array_equal(first, square) and first.dtype == np.float64
    assert np.array_equal(second, square) and second.dtype == ">i2"
    assert third == 2.5 and fourth.shape == () and bool(fourth)


def test_what_people_save_beside_weights_is_kept_out(saved):
    value = {
        "args": Namespace(lr=0.1, out=Path("x")),
        "when": datetime.datetime(2026, 1, 1),
        "seen": collections.defaultdict(list, a=[1]),
        "w": torch.ones(3),
    }
    opened = open_torch(saved(value))
    assert torch.equal(opened.value["w"], torch.ones(3)) and opened.value["seen"] == {"a": [1]}
    assert {"argparse.Namespace", "datetime.datetime"} <= set(opened.foreign)
    assert opened.value["args"].state["lr"] == 0.1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["sparse", "quantized", "nested"])
def test_unusual_tensors_are_labels(saved, kind):
    made = {
        "sparse": lambda: torch.ones(2, 2).to_sparse(),
        "quantized": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "nested": lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]),
    }
    assert type(read_torch(saved({"a": made[kind]()}))["a"]) is Foreign


def test_a_file_in_a_file_in_a_file_is_a_label(saved):
    inner = pickle.dumps(torch.ones(2).untyped_storage())
    found = read_torch(saved(Runs(torch.storage._load_from_bytes, inner), "pickle4"))
    assert type(found) is Foreign


class Known:
    pass


def test_what_other_packages_call_safe_counts_for_nothing_here(saved):
    with torch.serialization.safe_globals([Known]):
        found = read_torch(saved(Known()))
    assert type(found) is Foreign and found.name.endswith("Known")


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a").startswith("ba7816bf8f01cfea")
    with pytest.raises(CheckpointError):
        sha256(tmp_path / "b")
