"""Networks of a person's own: `mynet.py:Net`, a file, or `package.module:factory`, to import.

Naming one runs its code, so only a person may name one, never a file that was opened.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import ModelError, UnbackdoorError, UnknownNameError
from ..core.foreign import ours, place, reason

COUNTS = ("num_classes", "classes")
"""The parameters that a network may take its number of classes by; the first one there is used."""


def factory(arch: str) -> Callable[..., object]:
    """What `mynet.py:Net` or `package.module:factory` names; its module is run, as by `import`.

    A module is looked for in the current folder first, as Python itself does. Raises
    `UnknownNameError` where there is none, and `ModelError`, with file and line, where it fails.
    """
    module, _, name = arch.rpartition(":")
    if not module or not name:
        raise UnknownNameError(f"no architecture {arch!r}: give mynet.py:Net or package.module:Net")
    with failing(arch):
        found = _file(Path(module)) if module.endswith(".py") else _imported(module, arch)
    for part in name.split("."):
        if not hasattr(found, part):
            raise UnknownNameError.of(f"name in {module}", part, _callables(found))
        found = getattr(found, part)
    if not callable(found):
        raise ModelError(f"{arch} is a {type(found).__name__}, not something to call")
    called: Callable[..., object] = found
    return called


def keywords(arch: str) -> tuple[str, ...] | None:
    """The options that the network of `arch` names; None if it takes any."""
    parameters = _parameters(factory(arch))
    if parameters is None or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    return tuple(name for name in parameters if name not in COUNTS)


def build(arch: str, classes: int, given: dict[str, Any]) -> object:
    """The network, called with `num_classes=` or `classes=`, or neither if it takes neither.

    Raises `ModelError`, with file and line, for whatever it raises.
    """
    called = factory(arch)
    with failing(arch):
        return called(**_count(called, classes), **given)


def _count(called: Callable[..., object], classes: int) -> dict[str, int]:
    parameters = _parameters(called)
    if parameters is None:
        return {}
    named = next((name for name in COUNTS if name in parameters), None)
    if named is None and any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        named = COUNTS[0]
    return {named: classes} if named else {}


def _parameters(called: Callable[..., object]) -> dict[str, inspect.Parameter] | None:
    try:
        return dict(inspect.signature(called).parameters)
    except (TypeError, ValueError):
        return None


def _callables(module: object) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__  # type: ignore[attr-defined]
    ]


def _file(path: Path) -> ModuleType:
    """The module in the file `path`, run once however often it is asked for."""
    path = path.absolute()
    if not path.is_file():
        raise UnknownNameError(f"no such file: {path}")
    name = f"{path.stem} at {path}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _looking_in(path.parent):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _imported(module: str, arch: str) -> ModuleType:
    with _looking_in(Path.cwd()):
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name and module.startswith(error.name):
                raise UnknownNameError(
                    f"no architecture {arch!r}: no module {error.name!r} here; for a file say "
                    f"--arch FILE.py:NAME, or put its folder on PYTHONPATH"
                ) from None
            raise
        except (TypeError, ValueError) as error:
            if module.startswith("."):
                raise UnknownNameError(f"no architecture {arch!r}: {error}") from None
            raise


@contextmanager
def _looking_in(folder: Path) -> Iterator[None]:
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before


@contextmanager
def failing(who: str) -> Iterator[None]:
    """Whatever foreign code raises inside becomes a `ModelError` that names its file and line."""
    try:
        yield
    except UnbackdoorError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - it is not our code
        raise ModelError(f"{who} fails{place(error)}: {reason(error)}") from None


def answer(arch: str, net: nn.Module, x: Tensor) -> object:
    """What a person's own network gives for `x`; what its code raises is a `ModelError`.

    Errors of ours, such as that of a hook which has seen enough, and of the memory pass.
    """
    try:
        return net(x)
    except (UnbackdoorError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        if not (where := place(error)) or ours(error):
            raise
        raise ModelError(
            f"{arch} cannot take images {list(x.shape[1:])}{where}: {reason(error)}"
        ) from None
