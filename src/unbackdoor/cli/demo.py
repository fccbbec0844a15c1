"""demo: the whole story in a minute, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options as o
from .console import Console

ARCH, WIDTH = "preact_resnet18", 8
BATCHES, BATCH = 7, 64
"""The victim learns from twice as many batches as the defender holds, each of them full: norms of
so few steps do not bear a last batch of a few images."""
ATTACK: dict[str, Any] = {
    "size": 4,
    "rate": 0.2,
    "epochs": 16,
    "lr": 0.1,
    "batch": BATCH,
    "flip": False,
}


def demo(
    context: typer.Context,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", rich_help_panel=o.OUTPUT, help="folder to write"),
    ] = Path("demo"),
    force: o.Force = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    device: o.OnDevice = o.Device.auto,
    seed: o.Seed = 0,
    precision: o.InPrecision = o.Precision.auto,
) -> int:
    """See the whole story in a minute, offline: plant a backdoor, measure, repair, measure again.

    On handwritten digits: two thirds of the training digits teach a small network and a BadNets
    backdoor, the defender holds the rest. Writes what repair writes.
    """
    with Console(as_json=as_json, quiet=quiet, verbose=verbose) as console:
        from .. import api
        from ..attacks.base import planting
        from ..attacks.base.attack import Attack
        from ..core import method, record
        from ..core.files import alone
        from ..core.run import Run, pick_device
        from ..defenses.base.defense import Defense
        from ..models import Normalized
        from . import output, repairing, scores

        attack, defense = (
            method.build("attack", "badnets", ATTACK),
            method.build("defense", "uat", {}),
        )
        assert isinstance(attack, Attack) and isinstance(defense, Defense)
        console.hold(alone(out))
        output.check(out, force=force)
        run = Run(seed, pick_device(device), precision.value, console.progress, part=console.part)
        heading = record.heading("demo", context.obj)

        train, test = (api.load_images(f"digits:{part}", channels=1) for part in ("train", "test"))
        theirs, clean = train[: 3 * BATCHES * BATCH].split(
            2 * BATCHES * BATCH, run.rng("two thirds")
        )
        network = planting.Network(ARCH, {"width": WIDTH, "in_channels": 1})
        model = network.build(theirs, run)
        console.say(f"planting {attack.name()} in {ARCH} with {len(theirs)} handwritten digits")
        victim = attack.plant(model, theirs, run)
        stamped = attack.triggered(test)
        planting.warn_of_weakness(planting.learned(attack, victim, theirs, run))
        assert isinstance(victim.model, Normalized)
        case = repairing.Case(victim.model, clean, test, "test images", stamped)
        outcome = repairing.treat(case, defense, run, console)
        told = {
            **heading,
            "model": record.of_model(victim.model, victim.model.spec, None),
            "clean": record.of_images("digits:train", clean, held_out=0),
            "test": record.of_images("digits:test", test),
            "triggered": record.of_triggered("digits:test", stamped),
            "attack": record.of_method(attack),
            **repairing.told(case, defense, outcome, run),
            "warnings": console.warned,
        }
        full = repairing.write(out, outcome.model, told)
        console.result(
            full, scores.shown(outcome.agreement, before=outcome.before, after=outcome.after)
        )
        console.say(f"see {out / repairing.REPORT}")
        return 0
