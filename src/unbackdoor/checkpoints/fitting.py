"""Which of the state dicts in a file are the weights of a network, and by which names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import models
from ..core.errors import CheckpointError, RefusedFileError, listed
from ..core.spec import Spec
from ..network.inserts import INSERTS, reattach_
from .candidates import Candidate
from .model_files import AVERAGED, plain

SAMPLES = 5
"""So many of the names that a network expects are looked for to find what stands before them."""

MOST_LEADING = 8
"""So many parts that stand before all names, such as `module.model.`, are taken off."""

MOST_PREFIXES = 64
"""So many texts that may stand before the names are tried: each costs a look at every name."""

COUNTED = ("num_batches_tracked", "total_ops", "total_params")
"""The ends of names that count something, and are no weights."""

Shapes = Mapping[str, torch.Size]
Renamed = Callable[[str], str]


@dataclass(frozen=True, eq=False)
class Fit:
    """The weights of a candidate by the names a network has, and what does not fit.

    `weights` are all that stand behind `prefix`; `beside` are names that do not; `missing`, `over`
    and `wrong` are names that the network has, does not have, or has in another shape.
    """

    candidate: Candidate
    prefix: str
    weights: Mapping[str, Tensor]
    beside: tuple[str, ...]
    missing: tuple[str, ...]
    over: tuple[str, ...]
    wrong: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether all that the network expects is there, and no part that it does not have."""
        return not (self.missing or self.over or self.wrong)


def fitted(
    candidate: Candidate, expected: Shapes, renamed: Renamed, unused: Iterable[str] = ()
) -> Fit:
    """The best fit of `candidate`, over all that may stand before its names.

    `renamed` gives a name of the candidate as the network has it; tensors whose names begin with
    one of `unused` play no part.
    """
    names = {name: renamed(name) for name in candidate.weights}
    found = [
        _fit(candidate, prefix, expected, renamed, tuple(unused))
        for prefix in _prefixes(names.values(), expected)
    ]
    return min(found, key=lambda fit: (*_misfit(fit), bool(AVERAGED.search(fit.prefix))))


def _misfit(fit: Fit) -> tuple[int, int]:
    return len(fit.missing) + len(fit.wrong), len(fit.over)


def _prefixes(names: Iterable[str], expected: Shapes) -> list[str]:
    every = list(names)
    found = {"": None}
    # Not those that count: older files do not have them.
    weights = (name for name in expected if not name.endswith(COUNTED))
    for wanted in sorted(weights, key=len, reverse=True)[:SAMPLES]:
        for name in every:
            if name == wanted or name.endswith("." + wanted):
                found[name.removesuffix(wanted)] = None
                if len(found) == MOST_PREFIXES:
                    return list(found)
    return list(found)


def _fit(
    candidate: Candidate, prefix: str, expected: Shapes, renamed: Renamed, unused: tuple[str, ...]
) -> Fit:
    inside = {
        renamed(name.removeprefix(prefix)): tensor
        for name, tensor in candidate.weights.items()
        if name.startswith(prefix)
    }
    beside = tuple(name for name in candidate.weights if not name.startswith(prefix))
    extra = [name for name in inside if name not in expected]
    over = [n for n in extra if not (n.endswith(COUNTED) or (unused and n.startswith(unused)))]
    beyond, idle = set(over), set(extra) - set(over)  # sets: a file may have 100,000 names
    return Fit(
        candidate,
        prefix,
        {name: tensor for name, tensor in inside.items() if name not in idle},
        (*beside, *(name for name in extra if name not in beyond and not name.endswith(COUNTED))),
        tuple(n for n in expected if n not in inside and not n.endswith("num_batches_tracked")),
        tuple(over),
        tuple(n for n in expected if n in inside and inside[n].shape != expected[n]),
    )


def choose(
    found: Iterable[Candidate], expected: Shapes, renamed: Renamed, unused: Iterable[str] = ()
) -> tuple[Fit, list[str]]:
    """The candidate that fits best, the first of those that do; and where others lie that fit, too.

    Copies of the same weights are not told twice.
    """
    every = [fitted(one, expected, renamed, unused) for one in found]
    best = min(every, key=_misfit)
    # Of several networks in one dict the place of the one that was taken is told.
    inside = [fit for fit in every if fit.whole and _within(fit, best)]
    best = next((fit for fit in inside if _same(fit.weights, best.weights)), best)
    told, others = [best], []
    for fit in every:
        if not fit.whole or any(other.whole and _within(other, fit) for other in every):
            continue
        if not any(_same(fit.weights, known.weights) for known in told):
            told.append(fit)
            others.append(fit.candidate.where or "the outermost")
    return best, others


def _within(inner: Fit, outer: Fit) -> bool:
    """Whether the weights of `inner` are some of those of `outer`, by their very names."""
    if inner is outer or inner.candidate.weights.keys() >= outer.candidate.weights.keys():
        return False
    return all(outer.candidate.weights.get(n) is t for n, t in inner.candidate.weights.items())


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(name in one and torch.equal(one[name], value) for name, value in other.items())


def asked(found: tuple[Candidate, ...], where: str | None) -> tuple[Candidate, ...]:
    """The candidates that lie at `where`, all of them if that is None."""
    if where is None:
        return found
    there = tuple(one for one in found if where in (one.where, one.where.rpartition("/")[2]))
    if not there:
        places = listed(one.where or "(the outermost)" for one in found)
        raise CheckpointError(f"holds no weights at {where!r}; there are some at {places}")
    return there


def leading(weights: Mapping[str, Tensor]) -> Iterator[Mapping[str, Tensor]]:
    """`weights` as they are, and without what stands before most of their names."""
    for _ in range(MOST_LEADING if weights else 0):
        yield weights
        first: dict[str, int] = {}
        for name in weights:
            head, dot, _ = name.partition(".")
            if dot:
                first[head] = first.get(head, 0) + 1
        head = max(first, key=lambda name: first[name], default="")
        if 2 * first.get(head, 0) < len(weights):
            return
        weights = {
            name.removeprefix(f"{head}."): tensor
            for name, tensor in weights.items()
            if name.startswith(f"{head}.")
        }


def matched(
    path: Path, spec: Spec, net: nn.Module, found: Sequence[Candidate]
) -> tuple[Fit, list[str]]:
    """What fits `net` best, and where else weights lie that fit; raises where nothing does.

    `net` gains the inserts of a repair that the weights are of.
    """
    renamed, unused = _renaming(spec.arch, net), models.unused(spec.arch)
    fit, others = choose(found, _shapes(net), renamed, unused)
    for name, tensor in fit.weights.items():
        _check_plain(path, name, tensor)
    reattach_(net, fit.weights)
    expected = _shapes(net)
    fit = fitted(fit.candidate, expected, renamed, unused)
    if fit.wrong and not fit.missing and not fit.over:
        wrong = [(fit.weights[name].shape, expected[name]) for name in fit.wrong]
        _check_classes(path, len(spec.classes), wrong)
    if fit.whole:
        return fit, others
    if spoiled := [fit.candidate.spoiled[n] for n in fit.missing if n in fit.candidate.spoiled]:
        raise RefusedFileError(
            f"{path} was refused: {listed(dict.fromkeys(spoiled))} would make its weights by "
            "running code; nothing in it was run"
        )
    shapes = [f"{n} {list(fit.weights[n].shape)} instead of {list(expected[n])}" for n in fit.wrong]
    parts = {"missing": fit.missing, "unexpected": fit.over, "wrong shapes": shapes}
    told = "; ".join(f"{what}: {listed(names)}" for what, names in parts.items() if names)
    raise CheckpointError(
        f"{path} does not fit {spec.arch}: {told} (unbackdoor inspect says which networks fit)"
    )


def best(arch: str, net: nn.Module, found: Sequence[Candidate]) -> Fit:
    """What of `found` fits `net` best, by the names that `arch` has; it may not fit."""
    return choose(found, _shapes(net), _renaming(arch, net), models.unused(arch))[0]


def _renaming(arch: str, net: nn.Module) -> Renamed:
    theirs = {stored: ours for ours, stored in models.stored_names(net).items()}
    ending = ".weight"
    hosts = {s.removesuffix(ending): o.removesuffix(ending) for s, o in theirs.items()}

    def ours(name: str) -> str:
        # What a repair hung behind a layer goes by the layer's name.
        for kind in INSERTS:
            host, found, entry = name.partition(f".{kind}.")
            if found and (own := hosts.get(host) or _block(host, theirs)):
                return f"{own}.{kind}.{entry}"
        return theirs.get(name) or models.renamed(arch, name)

    return ours


def _block(stored: str, theirs: Mapping[str, str]) -> str | None:
    """What a block with weights inside goes by, as far as one of these has kept its name."""
    for name, ours in theirs.items():
        inner = name.removeprefix(stored)
        if inner != name and inner.startswith(".") and ours.endswith(inner):
            return ours.removesuffix(inner)
    return None


def _shapes(net: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in net.state_dict().items()}


def notes(path: Path, fit: Fit, others: Sequence[str], foreign: Sequence[str]) -> Iterator[str]:
    """What a person should know of how the weights were found."""
    took = fit.candidate
    if others:
        yield (
            f"{path.name} holds several weights that fit: took {took.where or 'the outermost'}, "
            f"not {listed(others)} (--weights takes another)"
        )
    if fit.beside:
        yield f"{path.name}: left out what the network does not use: {listed(fit.beside)}"
    if took.module:
        yield (
            f"{path.name} is a pickled module of the class {took.module}: its code was not run, "
            f"its {len(fit.weights)} tensors were taken"
        )
    elif foreign:
        yield (
            f"{path.name}: kept out what only code could make: {listed(foreign)}; nothing was run"
        )


def _check_classes(path: Path, count: int, wrong: Sequence[tuple[torch.Size, torch.Size]]) -> None:
    """Raises if all that is `wrong` (found, expected) is the number of classes."""
    found = {
        found[0] if found and expected == (count, *found[1:]) else None for found, expected in wrong
    }
    if len(found) == 1 and None not in found:
        raise CheckpointError(
            f"{path} is a model of {found.pop()} classes, not of the {count} wanted"
        )


def _check_plain(path: Path, name: str, tensor: Tensor) -> None:
    # Before anything is made in the size of a tensor: then the file itself is as large.
    if not plain(tensor) or tensor.is_complex():
        raise CheckpointError(f"{path}: {name} is not an ordinary tensor of real numbers")
