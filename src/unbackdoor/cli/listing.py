"""list: what there is to choose from."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.table import Table

from ..core.errors import UnknownNameError
from . import options as o
from .console import Console, table

if TYPE_CHECKING:
    from ..defenses.base.defense import Defense

KINDS = ("a folder of class folders", ".npz", ".parquet", "attack_result.pt")
TYPICAL, CLASSES = 5000, 10
"""Clean images, and their classes, for which the work of a defense is told."""
MOST_PASSES = re.compile(r"passes<=(\d+(?:\.\d+)?)")


def listing(
    needs: Annotated[
        str | None,
        typer.Option(
            "--needs",
            metavar="WHAT",
            help="only defenses, with what they need: all, or no-labels,norms,passes<=50",
        ),
    ] = None,
    as_json: o.Json = False,
) -> int:
    """List attacks, defenses, scanners, architectures and sources of images."""
    with Console(as_json=as_json) as console:
        if needs is not None:
            chosen = _defenses(needs)
            console.result({"defenses": chosen}, _needs(chosen))
            return 0
        from .. import data, models
        from ..core import method

        found = {
            "attacks": list(method.names("attack")),
            "defenses": list(method.names("defense")),
            "scanners": list(method.names("scanner")),
            "architectures": [
                *models.names(),
                "timm:NAME",
                "mynet.py:Net",
                "package.module:factory",
            ],
            "sources": [*data.names(), *KINDS],
        }
        rows = [(kind, ", ".join(names)) for kind, names in found.items()]
        shown = table(("kind", "names"), rows)
        shown.columns[1].justify, shown.columns[1].no_wrap = "left", False
        console.result(found, shown)
        return 0


def _defenses(asked: str) -> list[dict[str, Any]]:
    """The defenses that fit what is `asked`: their names, what each needs, and its work."""
    from ..core import method
    from ..defenses.base.needs import NEEDS

    words = [word.strip() for word in asked.split(",")]
    bounds = [float(most[1]) for word in words if (most := MOST_PASSES.fullmatch(word))]
    words = [word for word in words if not MOST_PASSES.fullmatch(word)]
    known = {"all", *NEEDS, *(f"no-{need}" for need in NEEDS)}
    for word in words:
        if word not in known:
            raise UnknownNameError.of("need", word, [*sorted(known), "passes<=50"])
    wanted = {word for word in words if word in NEEDS}
    spared = {word.removeprefix("no-") for word in words if word.startswith("no-")}
    built = (method.build("defense", name) for name in method.names("defense"))
    found = [cast("Defense", one) for one in built]
    return [
        {"name": one.name(), "needs": sorted(one.needs), "passes": passes}
        for one in found
        if wanted <= one.needs and not spared & one.needs
        if (passes := _passes(one)) is not None or not bounds
        if passes is None or all(passes <= bound for bound in bounds)
    ]


def _passes(defense: Defense) -> float | None:
    """How often each clean image goes through the model and back; None where nobody knows."""
    work = defense.work(TYPICAL, CLASSES)
    return None if work is None else round(work / TYPICAL, 1)


def _needs(chosen: list[dict[str, Any]]) -> Table:
    from ..defenses.base.needs import NEEDS

    rows = [
        (
            one["name"],
            *("yes" if need in one["needs"] else "" for need in NEEDS),
            "?" if one["passes"] is None else f"{one['passes']:g}",
        )
        for one in chosen
    ]
    legend = "\n".join(f"{need}: {meaning}" for need, meaning in NEEDS.items())
    title = (
        f"{legend}\npasses: how often each of {TYPICAL:,} clean images of {CLASSES} classes goes "
        "through the model and back, about\n"
    )
    return table(("defense", *(need.replace("_", " ") for need in NEEDS), "passes"), rows, title)
