"""State dicts in what a file holds: wherever they lie, and those of pickled modules."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import CheckpointError
from .inert import Foreign

MOST = 100
"""So many dicts of tensors are looked at; a training state has some hundred of one tensor each."""

DEEPEST = 100
"""Levels of dicts, lists or modules in one another: names grow with each, and files are flatter."""

PART_OF_TWINS = 0.9
"""Of all names in a dict, so many are those of its networks; the rest may be queues and counts."""

MOST_LEADING = 8
"""So many parts that stand before all names are passed by: a name may have a million."""

MOST_TWINS, FEWEST_TWINS = 8, 4
"""So many networks may lie in one dict, and so many tensors each has at least."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """Weights by name, and where in the file they lie: a path of keys, empty for the file itself.

    `spoiled` are entries that only code could make, by name, with the name of that code; `module`
    is the class of the pickled network that the weights were taken from, if they were.
    """

    where: str
    weights: Mapping[str, Tensor]
    spoiled: Mapping[str, str] = field(default_factory=dict)
    module: str | None = None


def candidates(value: Any) -> tuple[Candidate, ...]:
    """Every dict of tensors in `value`, and every pickled module; the outermost first."""
    found: list[Candidate] = []
    for where, part in _parts(value):
        if isinstance(part, Foreign):
            if _is_module(part):
                weights, spoiled = _tree(part)
                found.append(Candidate(where, weights, spoiled, part.name))
        elif any(isinstance(tensor, Tensor | np.ndarray) for tensor in part.values()):
            found.append(Candidate(where, *_entries(part)))
        if len(found) == MOST:
            break
    return tuple(part for one in found if one.weights for part in (one, *_twins(one)))


def _twins(one: Candidate) -> Iterator[Candidate]:
    """Each of several networks of the same tensors in one dict: `student.` and `teacher.`.

    They are named by what stands before their names, which may begin with what most have. Blocks of
    one network are alike, too, but there is more beside them.
    """
    names, before, most = list(one.weights), "", PART_OF_TWINS * len(one.weights)
    inside: dict[str, list[str]] = {}
    for _ in range(MOST_LEADING):
        inside = {}
        for name in names:
            head, _, rest = name.partition(".")
            if rest:
                inside.setdefault(head, []).append(rest)
        common = next((head for head, tails in inside.items() if len(tails) >= most), None)
        if common is None:
            break
        names, before = inside[common], f"{before}{common}."
    alike: dict[frozenset[str], list[str]] = {}
    for head, tails in inside.items():
        if len(tails) >= FEWEST_TWINS:
            alike.setdefault(frozenset(tails), []).append(head)
    for rests, heads_alike in alike.items():
        whole = len(rests) * len(heads_alike) >= most
        for head in heads_alike if whole and 1 < len(heads_alike) <= MOST_TWINS else ():
            start = f"{before}{head}."
            yield Candidate(
                _joined(one.where, start.rstrip(".")),
                {n: tensor for n, tensor in one.weights.items() if n.startswith(start)},
                {n: code for n, code in one.spoiled.items() if n.startswith(start)},
                one.module,
            )


def _parts(value: Any) -> Iterator[tuple[str, dict[Any, Any] | Foreign]]:
    """Every dict and every stand-in in `value`, breadth first, with its path; each once."""
    queue, seen = deque([("", value, 0)]), set[int]()
    while queue:
        where, part, depth = queue.popleft()
        if id(part) in seen or depth > DEEPEST:
            continue
        depth += 1
        if isinstance(part, Foreign):
            seen.add(id(part))
            yield where, part
            # Of a module the tensors are taken by their tree; others may hold dicts of tensors.
            if not _is_module(part):
                inside = (part.state, part.pairs, part.items, part.arguments)
                queue.extend((where, more, depth) for more in inside)
        elif isinstance(part, dict):
            seen.add(id(part))
            yield where, part
            queue.extend((_joined(where, name), more, depth) for name, more in part.items())
        elif isinstance(part, list | tuple | set | frozenset):
            seen.add(id(part))
            queue.extend((_joined(where, str(i)), more, depth) for i, more in enumerate(part))


def _joined(where: str, name: object) -> str:
    told = name if isinstance(name, str) else type(name).__name__
    return f"{where}/{told[:80]}" if where else told[:80]


def _entries(part: Mapping[Any, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    weights: dict[str, Tensor] = {}
    spoiled: dict[str, str] = {}
    for name, value in part.items():
        if not isinstance(name, str):
            continue
        if isinstance(value, Tensor):
            weights[name] = value
        elif isinstance(value, np.ndarray):
            weights[name] = torch.from_numpy(value.astype(value.dtype.newbyteorder("="), copy=True))
        elif isinstance(value, Foreign):
            spoiled[name] = value.name
    return weights, spoiled


def _is_module(part: Foreign) -> bool:
    if not isinstance(part.state, dict):
        return False
    return part.name.startswith("__torch__.") or isinstance(part.state.get("_modules"), dict)


def _tree(root: Foreign) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The parameters and buffers of a pickled module and of those in it, by their paths."""
    weights: dict[str, Tensor] = {}
    spoiled: dict[str, str] = {}
    open_, seen = [("", root, 0)], set[int]()
    while open_:
        prefix, module, depth = open_.pop()
        if depth > DEEPEST:
            raise CheckpointError(f"holds modules in one another, more than {DEEPEST} levels deep")
        if id(module) in seen:
            continue
        seen.add(id(module))
        state: dict[Any, Any] = module.state
        for part in (state,) if module.name.startswith("__torch__.") else _own(state):
            found, bad = _entries(part)
            weights |= {prefix + name: tensor for name, tensor in found.items()}
            spoiled |= {prefix + name: code for name, code in bad.items() if name not in state}
        children = state["_modules"] if isinstance(state.get("_modules"), dict) else state
        for name, child in reversed(children.items()):
            if isinstance(name, str) and isinstance(child, Foreign) and _is_module(child):
                open_.append((f"{prefix}{name}.", child, depth + 1))
    return weights, spoiled


def _own(state: Mapping[Any, Any]) -> Iterator[dict[Any, Any]]:
    passing = state.get("_non_persistent_buffers_set")
    for kind in ("_parameters", "_buffers"):
        part = state.get(kind)
        if isinstance(part, dict):
            left_out = passing if isinstance(passing, set) and kind == "_buffers" else set()
            yield {name: value for name, value in part.items() if name not in left_out}
