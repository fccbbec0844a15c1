"""A pickle interpreter that runs nothing: a name in a pickle becomes a label, a call a note of it.

Python's own unpickler imports the names in a pickle and calls them. This one reads the opcodes
itself (decoded by the standard library's `pickletools`) and keeps a stack of inert values. What a
call makes is decided by a table of builders that the caller gives; any other call, and any object
of a class, becomes a `Foreign` that holds its name, arguments and state, and does nothing.

What it may cost is bounded before the work: so many opcodes, and keys that are cheap to hash.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from typing import IO, Any

from ..core.errors import CheckpointError
from .inert import Foreign, Global, key

MOST_OPCODES = 3_000_000
"""A pickle of a model has some ten thousand; a list of a million numbers has a million."""

_MARK = object()


Builder = Callable[..., Any]
"""Makes a plain value of a call's arguments; raises any error for arguments that it cannot take."""


class Interpreter:
    """Reads one pickle after another; `foreign` gathers the names that became labels.

    `builders` makes plain values of the calls that it names; `persistent` of persistent ids.
    """

    def __init__(
        self, builders: Mapping[str, Builder], persistent: Callable[[Any], Any] | None = None
    ) -> None:
        self.builders, self.persistent = builders, persistent
        self.foreign: set[str] = set()
        self.left = MOST_OPCODES
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def read(self, file: IO[bytes]) -> Any:
        """The value of the pickle that begins at the place where `file` stands.

        Raises `CheckpointError` for one that is too long, `ValueError` and its kin where it is
        damaged.
        """
        self.stack, self.memo = [], {}
        for opcode, argument, _ in pickletools.genops(file):
            self.left -= 1
            if self.left < 0:
                raise CheckpointError(f"holds a pickle of more than {MOST_OPCODES} steps")
            if opcode.name == "STOP":
                return self.stack.pop()
            _STEPS.get(opcode.name, _unknown)(self, argument)
        raise EOFError("the pickle has no end")

    def marked(self) -> list[Any]:
        """Takes what lies above the last mark off the stack, and the mark."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise ValueError("no mark")
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    def call(self, target: Any, arguments: Any) -> Any:
        """What calling `target` would have made: a plain value if a builder knows it."""
        name = target.name if isinstance(target, Global | Foreign) else "something"
        given = arguments if type(arguments) is tuple else (arguments,)
        # A call may copy what it is given, and a pickle may give one thing a million times.
        self.left -= sum(len(part) // 16 for part in given[:10] if hasattr(part, "__len__"))
        builder = self.builders.get(name) if isinstance(target, Global) else None
        if builder is not None:
            try:
                return builder(*given)
            except CheckpointError:
                raise
            except Exception:  # noqa: BLE001 - whatever is wrong with its arguments, it is not built
                pass
        self.foreign.add(name)
        return Foreign(name, given)


def _unknown(machine: Interpreter, argument: Any) -> None:
    raise ValueError("an opcode that no model file needs")


def _push(machine: Interpreter, argument: Any) -> None:
    machine.stack.append(argument)


def _pushes(make: Callable[[], Any]) -> Callable[[Interpreter, Any], None]:
    return lambda machine, _: machine.stack.append(make())


def _gathers(make: Callable[[list[Any]], Any]) -> Callable[[Interpreter, Any], None]:
    return lambda machine, _: machine.stack.append(make(machine.marked()))


def _tuple_of(count: int) -> Callable[[Interpreter, Any], None]:
    def step(machine: Interpreter, _: Any) -> None:
        parts = tuple(machine.stack[-count:])
        if len(parts) < count:
            raise ValueError("the stack is empty")
        machine.stack[-count:] = [parts]

    return step


def _dict_of(values: list[Any]) -> dict[Any, Any]:
    return {key(k): v for k, v in zip(values[::2], values[1::2], strict=True)}


def _fill(target: Any, values: list[Any]) -> None:
    """Adds items to a list, a set or what would have been one."""
    if type(target) is list:
        target.extend(values)
    elif type(target) is set:
        target.update(map(key, values))
    elif isinstance(target, Foreign):
        target.items.extend(values)
    else:
        raise ValueError("items for what holds none")


def _set(target: Any, pairs: list[Any]) -> None:
    if type(target) is dict:
        target.update(_dict_of(pairs))
    elif isinstance(target, Foreign):
        target.pairs.update(_dict_of(pairs))
    else:
        raise ValueError("entries for what is no dict")


def _append(machine: Interpreter, _: Any) -> None:
    value = machine.stack.pop()
    _fill(machine.stack[-1], [value])


def _appends(machine: Interpreter, _: Any) -> None:
    values = machine.marked()
    _fill(machine.stack[-1], values)


def _setitem(machine: Interpreter, _: Any) -> None:
    value, name = machine.stack.pop(), machine.stack.pop()
    _set(machine.stack[-1], [name, value])


def _setitems(machine: Interpreter, _: Any) -> None:
    values = machine.marked()
    _set(machine.stack[-1], values)


def _global(machine: Interpreter, argument: Any) -> None:
    machine.stack.append(_named(machine, str(argument).replace(" ", ".", 1)))


def _stack_global(machine: Interpreter, _: Any) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    if type(name) is not str or type(module) is not str:
        raise ValueError("a name that is no text")
    machine.stack.append(_named(machine, f"{module}.{name}"))


def _named(machine: Interpreter, name: str) -> Global:
    # Python 2 called the built-in names otherwise.
    return Global(name.replace("__builtin__.", "builtins.", 1))


def _reduce(machine: Interpreter, _: Any) -> None:
    arguments, target = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(machine.call(target, arguments))


def _newobj_ex(machine: Interpreter, _: Any) -> None:
    named, arguments, target = (machine.stack.pop() for _ in range(3))
    machine.stack.append(machine.call(target, (arguments, named) if named else arguments))


def _inst(machine: Interpreter, argument: Any) -> None:
    target = _named(machine, str(argument).replace(" ", ".", 1))
    machine.stack.append(machine.call(target, tuple(machine.marked())))


def _obj(machine: Interpreter, _: Any) -> None:
    target, *arguments = machine.marked()
    machine.stack.append(machine.call(target, tuple(arguments)))


def _build(machine: Interpreter, _: Any) -> None:
    state = machine.stack.pop()
    target = machine.stack[-1]
    if isinstance(target, Foreign):
        target.state = state
    elif callable(take := getattr(type(target), "take_state", None)):
        machine.stack[-1] = take(target, state)
    # Tensors and dicts need nothing of their state.


def _extension(machine: Interpreter, argument: Any) -> None:
    machine.stack.append(Global(f"copyreg.extension_{argument}"))


def _persistent(machine: Interpreter, argument: Any) -> None:
    wanted = machine.stack.pop() if argument is None else argument
    if machine.persistent is None:
        raise ValueError("a persistent id in a plain pickle")
    machine.stack.append(machine.persistent(wanted))


def _get(machine: Interpreter, argument: Any) -> None:
    machine.stack.append(machine.memo[int(argument)])


def _put(machine: Interpreter, argument: Any) -> None:
    machine.memo[len(machine.memo) if argument is None else int(argument)] = machine.stack[-1]


def _pop(machine: Interpreter, _: Any) -> None:
    machine.stack.pop()


def _pop_mark(machine: Interpreter, _: Any) -> None:
    machine.marked()


_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_BYTES = ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
_TEXTS = (
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
)

_STEPS: dict[str, Callable[[Interpreter, Any], None]] = {
    **dict.fromkeys((*_NUMBERS, *_BYTES, *_TEXTS), _push),
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, argument: None),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _get),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _put),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), _extension),
    **dict.fromkeys(("PERSID", "BINPERSID"), _persistent),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _reduce),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), _appends),
    "NONE": _pushes(lambda: None),
    "NEWTRUE": _pushes(lambda: True),
    "NEWFALSE": _pushes(lambda: False),
    "MARK": _pushes(lambda: _MARK),
    "EMPTY_LIST": _pushes(list),
    "EMPTY_DICT": _pushes(dict),
    "EMPTY_TUPLE": _pushes(tuple),
    "EMPTY_SET": _pushes(set),
    "LIST": _gathers(list),
    "TUPLE": _gathers(tuple),
    "DICT": _gathers(_dict_of),
    "FROZENSET": _gathers(lambda values: frozenset(map(key, values))),
    **{f"TUPLE{count}": _tuple_of(count) for count in (1, 2, 3)},
    "APPEND": _append,
    "SETITEM": _setitem,
    "SETITEMS": _setitems,
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "NEWOBJ_EX": _newobj_ex,
    "INST": _inst,
    "OBJ": _obj,
    "BUILD": _build,
    "POP": _pop,
    "POP_MARK": _pop_mark,
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
}
