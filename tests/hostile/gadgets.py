"""Pickles that would run code: every way to call, everything worth calling, in every torch file."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import torch

from unbackdoor.checkpoints.builders import builders

from . import opcodes as op
from .inputs import CANARY, CONVERT, DIGITS, EITHER, INSPECT, REFUSED, Input

SHELL = ("posix.system", "os.system", "os.popen", "subprocess.getoutput", "subprocess.Popen")
PYTHON = ("builtins.eval", "builtins.exec", "code.interact", "timeit.timeit", "runpy._run_code")
IMPORTS = (
    "builtins.__import__",
    "importlib.import_module",
    "pkgutil.resolve_name",
    "runpy.run_path",
)
READERS = (
    *("torch.load", "torch.hub.load", "torch.jit.load", "torch.serialization.load", "numpy.load"),
    *("pickle.loads", "_pickle.loads", "marshal.loads", "pandas.read_pickle", "joblib.load"),
)
HELPERS = (
    *("functools.partial", "functools.reduce", "operator.attrgetter", "operator.methodcaller"),
    *("builtins.getattr", "builtins.map", "builtins.type", "types.FunctionType", "types.CodeType"),
    *("copyreg._reconstructor", "copyreg.__newobj__", "itertools.starmap", "weakref.finalize"),
)
FILES = ("builtins.open", "shutil.rmtree", "os.remove", "pathlib.Path.write_text", "ctypes.CDLL")
TORCH = (
    *("torch._C._jit_compile", "torch.utils.cpp_extension.load", "torch.ops.load_library"),
    *(
        "torch.fx.graph_module.reduce_graph_module",
        "torch.package.package_importer.PackageImporter",
    ),
    *(
        "torch._dynamo.utils.nothing",
        "torch.distributed.rpc.rpc_sync",
        "torch.multiprocessing.spawn",
    ),
)
NETWORK = ("urllib.request.urlopen", "socket.create_connection", "webbrowser.open", "pty.spawn")
WORTH = (*SHELL, *PYTHON, *IMPORTS, *READERS, *HELPERS, *FILES, *TORCH, *NETWORK)


def ways(name: str, argument: bytes) -> dict[str, bytes]:
    """Every way in which a pickle can call `name` with `argument`."""
    module, _, last = name.rpartition(".")
    line = f"{module}\n{last}\n".encode()
    one, called = op.tuple_(argument), op.named(name)
    return {
        "reduce": called + one + b"R",
        "newobj": called + one + b"\x81",
        "newobj_ex": called + one + b"}\x92",
        "inst": b"(" + argument + b"i" + line,
        "obj": b"(" + called + argument + b"o",
        "global": b"c" + line + one + b"R",
        "build": called + b")R" + op.dict_({"__setstate__": called, "__dict__": argument}) + b"b",
        "extension": b"\x82\x01" + one + b"R",
        "persistent": op.tuple_(op.text("storage"), called, argument, argument, argument) + b"Q",
        "persistent call": called + one + b"R" + b"Q",
        "key": b"}" + called + one + b"R" + b"Ns",
        "item": called + b")R(" + argument + b"e",
        "pair": called + b")R(" + argument + argument + b"u",
        "state of a tensor": op.tensor() + called + one + b"Rb",
        "storage": op.called("torch._utils._rebuild_tensor_v2", called + one + b"R"),
        "chain": op.called("builtins.getattr", called, argument) + one + b"R",
    }


def _calls() -> Iterator[Input]:
    """Each name worth calling in two of the ways, drawn by a seed, and each way at least once."""
    rng = random.Random(26)
    every = sorted(ways("a.b", b"N"))
    for place, name in enumerate(WORTH):
        for way in {every[place % len(every)], rng.choice(every)}:
            for kind in rng.sample(sorted(op.CONTAINERS), 1):
                yield _call(name, way, kind, rng.random() < 0.5)


def _call(name: str, way: str, kind: str, alone: bool) -> Input:
    def make(folder: Path) -> list[str]:
        told = f"touch {folder / CANARY}"
        code = ways(name, op.text(told))[way]
        if not alone:  # beside weights that open
            code = op.dict_({"weight": op.tensor(), "x": code, "y": op.tensor()})
        op.CONTAINERS[kind](folder / "a.pt", op.steps(code))
        return INSPECT if alone else CONVERT

    return Input(
        "torch", f"{name} by {way}, {kind}{'' if alone else ', beside weights'}", make, EITHER
    )


def _known() -> Iterator[Input]:
    """Every call that the reader makes plain values of, with arguments that it was not made for."""
    system = op.called("os.system", op.text(f"touch {CANARY}"))
    odd = {
        "nothing": (),
        "code": (system,) * 4,
        "numbers of 5,000 digits": (op.number(int(DIGITS[:4000])), op.number(-(10**4000))) * 3,
        "a huge count": (op.number(10**10), op.number(10**10), op.tuple_(op.number(2**47)) * 1),
        "texts": (op.text("x" * 1000), op.text("\ud800"), op.text("latin1")),
        "itself": (b"]q\x07h\x07a", b"h\x07", b"h\x07", b"h\x07"),
    }
    names = sorted(builders(lambda *_: None, lambda *_: None))
    for place, name in enumerate(names):
        for shift in (0, 1):
            told = sorted(odd)[(place + shift) % len(odd)]
            code = op.dict_({"weight": op.tensor(), "x": op.called(name, *odd[told])})
            kind = sorted(op.CONTAINERS)[(place + shift) % 3]

            def make(folder: Path, code: bytes = code, kind: str = kind) -> list[str]:
                op.CONTAINERS[kind](folder / "a.pt", op.steps(code))
                return CONVERT

            yield Input("torch", f"{name} of {told}, {kind}", make, REFUSED)


class Sends(torch.nn.Module):
    """A module whose pickle calls something; it is pickled whole."""

    def __init__(self, told: str) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)
        self.told = told

    def __reduce_ex__(self, protocol: object) -> tuple[object, ...]:
        import os

        return os.system, (self.told,), {"_modules": {"layer": self.layer}, "_parameters": {}}


def _modules() -> Iterator[Input]:
    """Whole pickled modules."""

    def module(folder: Path) -> list[str]:
        torch.save(Sends(f"touch {folder / CANARY}"), folder / "a.pt")
        return INSPECT

    def convert(folder: Path) -> list[str]:
        module(folder)
        return CONVERT

    yield Input("module", "a module whose pickle calls os.system", module, EITHER)
    yield Input("module", "the same, converted", convert, REFUSED)
    for name, state in {
        "its own child": b"}q\x01" + op.text("_modules") + b"}" + op.text("a") + b"h\x02ssb",
        "children that are texts": op.dict_({"_modules": op.dict_({"a": op.text("b")})}) + b"b",
        "parameters that are code": op.dict_(
            {"_modules": b"}", "_parameters": op.dict_({"w": op.called("os.system", op.text("x"))})}
        )
        + b"b",
        "buffers that are a list": op.dict_({"_modules": b"}", "_buffers": b"]"}) + b"b",
        "numbers for names": op.dict_({"_modules": b"}K\x01" + op.tensor() + b"s"}) + b"b",
        "_modules that are a set": op.dict_({"_modules": b"\x8f"}) + b"b",
    }.items():

        def broken(folder: Path, state: bytes = state) -> list[str]:
            code = op.named("torch.nn.modules.linear.Linear") + b")\x81q\x02" + state
            op.in_zip(folder / "a.pt", op.steps(code))
            return INSPECT

        yield Input("module", f"a module with {name}", broken, EITHER)

    def deep(folder: Path) -> list[str]:
        start = op.named("a.B") + b")\x81" + b"}" + op.text("_modules") + b"}" + op.text("a")
        code = start * 20_000 + op.named("a.B") + b")\x81"
        op.in_zip(folder / "a.pt", op.steps(code + b"ssb" * 20_000))
        return INSPECT

    yield Input("module", "20,000 modules in one another", deep, EITHER)

    def evil_config(folder: Path) -> list[str]:
        net = torch.nn.Sequential(torch.nn.Linear(2, 2))
        torch.save(
            {"model": net.state_dict(), "model_name": "os:system", "num_classes": 2},
            folder / "a.pt",
        )
        return ["convert", "a.pt", "out/m.safetensors"]

    yield Input("torch", "a BackdoorBench result whose network is os:system", evil_config, REFUSED)


def inputs() -> Iterator[Input]:
    yield from _calls()
    yield from _known()
    yield from _modules()
