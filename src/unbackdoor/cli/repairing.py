"""What `repair` and `demo` share: repair a model, measure before and after, write the folder."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.table import Table
from torch import Tensor, nn

from ..checkpoints import checkpoint
from ..core import record
from ..core.files import sha256
from ..core.images import Images, Triggered, to_float
from ..core.measure import Rate, Score, der, matches, predictions, score, seconds_of_step
from ..core.modules import copied
from ..core.run import Run
from ..defenses.base.defense import Defense, Repair
from ..models import Normalized
from ..network.layers import find_layers
from ..report import model_card, repair_page
from . import output
from .console import Console, table

MODEL, REPORT, CARD = "model.safetensors", "report.html", "model_card.md"
EXAMPLES = 8
TIMED = 16
"""Images of the step that is timed before a repair."""
LONG = 20
"""Minutes from which on a repair says what takes less."""


@dataclass(frozen=True, eq=False)
class Case:
    """A model to repair, what the defense may see of it, and what it is judged by.

    `judged` are the clean images that ACC is counted on, and `acc_on` says what they are.
    """

    model: Normalized
    clean: Images
    judged: Images
    acc_on: str
    triggered: Triggered | None


@dataclass(frozen=True, eq=False)
class Outcome:
    """A repair, and what was measured before and after it.

    `agreement` is how many of the judged clean images get the same class before and after.
    """

    repair: Repair
    before: Score
    after: Score
    agreement: Rate

    @property
    def model(self) -> Normalized:
        """The repaired model."""
        assert isinstance(self.repair.model, Normalized)
        return self.repair.model


def treat(case: Case, defense: Defense, run: Run, console: Console) -> Outcome:
    """Measures, repairs and measures again."""
    console.say(f"measuring on {run.device}")
    case.model.to(run.device)
    said, before = _measured(case.model, case, run)
    console.say(
        f"repairing with {defense.name()}, {len(case.clean)} clean images"
        f"{_how_long(case, defense, run)}"
    )
    repaired = defense.repair(case.model, case.clean, run)
    says, after = _measured(repaired.model, case, run)
    return Outcome(repaired, before, after, matches(said, says))


def _measured(model: nn.Module, case: Case, run: Run) -> tuple[Tensor, Score]:
    """What `model` says of the clean images that judge it, and its score."""
    said = predictions(model, case.judged, run)
    attacked = score(model, run, None, case.triggered)
    return said, replace(attacked, acc=matches(said, case.judged.labels))


def _how_long(case: Case, defense: Defense, run: Run) -> str:
    """What to expect, where the defense knows how much it will do: from two timed steps."""
    used, classes = len(case.clean) - defense.judges(len(case.clean)), len(case.clean.classes)
    work = defense.work(used, classes)
    if not work:
        return ""
    model = copied(case.model).to(run.device)
    x = to_float(case.clean.pixels[:TIMED]).to(run.device)
    each = seconds_of_step(model, x, run) / len(x) / 60
    minutes = each * work
    if minutes < 1.5:
        return "; about a minute or less"
    less = each * (defense.model_copy(update=dict(defense.quick)).work(used, classes) or 0)
    if minutes < LONG or less > minutes / 2:
        return f"; about {minutes:.0f} minutes"
    told = " ".join(f"-p {name}={value}" for name, value in defense.quick.items())
    return f"; about {minutes:.0f} minutes ({told}: about {less:.0f}, and a worse repair)"


def told(case: Case, defense: Defense, outcome: Outcome, run: Run) -> dict[str, Any]:
    """The part of the record that the repair itself tells."""
    layers = find_layers(case.model, to_float(case.clean.pixels[:1]))
    channels = {layer.name: layer.channels for layer in layers}
    channels |= {name: len(mask) for name, mask in outcome.repair.silenced.items()}
    shown = examples(case, outcome, run)
    return {
        "defense": record.of_method(defense),
        "acc_on": case.acc_on,
        "before": record.of_score(outcome.before),
        "after": record.of_score(outcome.after),
        "agreement": outcome.agreement.as_json(),
        "der": der(outcome.before, outcome.after),
        "layers": record.of_layers(outcome.repair.silenced, outcome.repair.scores, channels),
        "score_name": outcome.repair.score_name or f"score of {defense.name()}",
        "notes": dict(outcome.repair.notes),
        "examples": shown,
        **record.of_run(run),
    }


def write(
    out: Path, model: Normalized, told: dict[str, Any], beside: Sequence[Path] = ()
) -> dict[str, Any]:
    """Writes the checkpoint, the record, the report and the model card into `out`, or nothing.

    Copies of the files `beside` lie there, too: what a library needs to load the checkpoint.
    Gives back the record as it was written.
    """
    provenance = {key: told[key] for key in ("command", "unbackdoor", "started", "defense")}
    with output.written(out) as folder:
        checkpoint.save(model, folder / MODEL, {**provenance, "repaired": told["model"]["sha256"]})
        full = {**told, "output": {"file": MODEL, "sha256": sha256(folder / MODEL)}}
        (folder / REPORT).write_text(repair_page(full), encoding="utf-8")
        (folder / CARD).write_text(model_card(full), encoding="utf-8")
        for file in beside:
            shutil.copyfile(file, folder / file.name)
        output.write_json(folder / output.RECORD, full)
    return full


def times(seconds: Mapping[str, float], whole: float) -> Table:
    """Where the seconds of a repair went, the `whole` of it: a row a stage, and the rest."""
    rest = max(0.0, whole - sum(seconds.values()))
    spent = {**seconds, "rest": rest, "all": whole}
    return table(
        ("stage", "seconds", "share"),
        [(stage, f"{value:.1f}", f"{100 * value / whole:.0f} %") for stage, value in spent.items()],
    )


def examples(case: Case, outcome: Outcome, run: Run) -> list[dict[str, Any]]:
    """A few images with their classes before and after: triggered ones where there are any."""
    stamped = case.triggered.counted().images if case.triggered else None
    shown = stamped if stamped is not None and len(stamped) else case.judged
    chosen = shown[_varied(shown.labels)]
    clean: list[Images | None] = [chosen[i : i + 1] for i in range(len(chosen))]
    if shown is stamped:
        clean = [_original(image, case.judged) for image in clean if image]
    found = []
    for index, original in enumerate(clean):
        parts = {
            "clean": original,
            "stamped": chosen[index : index + 1] if stamped is shown else None,
        }
        found.append(
            {
                "truth": chosen.classes[int(chosen.labels[index])],
                **{kind: picture(part.pixels[0]) if part else None for kind, part in parts.items()},
                "before": {kind: _class(case.model, part, run) for kind, part in parts.items()},
                "after": {kind: _class(outcome.model, part, run) for kind, part in parts.items()},
            }
        )
    return found


def _varied(labels: Tensor) -> Tensor:
    """The places of a few images, of as many classes as can be."""
    order = torch.argsort(labels, stable=True)
    first = torch.cat([torch.tensor([True]), labels[order][1:] != labels[order][:-1]])
    ahead = torch.cat([order[first], order[~first]])
    return ahead[:EXAMPLES]


def _original(stamped: Images, clean: Images) -> Images | None:
    """The image of `clean` without the trigger, where one is far nearer than every other one."""
    distance = (clean.pixels.float() - stamped.pixels.float()).abs().flatten(1).mean(1)
    distance[clean.labels != stamped.labels] = float("inf")
    nearest = torch.argsort(distance)[:2]
    if len(nearest) < 2 or distance[nearest[0]] > 0.7 * distance[nearest[1]]:
        return None
    return clean[nearest[:1]]


def _class(model: Normalized, image: Images | None, run: Run) -> str | None:
    if image is None:
        return None
    quiet = Run(seed=run.seed, device=run.device)
    return image.classes[int(predictions(model, image, quiet)[0])]


def picture(pixels: Tensor) -> str:
    """An image uint8 `[c, h, w]` as base64 PNG."""
    picture = pixels[0] if len(pixels) == 1 else pixels[:3].permute(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(picture.contiguous().numpy()).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
