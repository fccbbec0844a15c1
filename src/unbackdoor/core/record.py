"""The record of a repair or a demo: all that is needed to judge it, and to do it again."""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .files import sha256
from .images import Images, Triggered
from .measure import Score
from .method import Method
from .run import Run
from .spec import Spec
from .version import __version__

FORMAT = 1


def heading(kind: str, command: str) -> dict[str, Any]:
    """What a record starts with: its kind, the command as it was typed, when and by what."""
    return {
        "format": FORMAT,
        "kind": kind,
        "command": command,
        "unbackdoor": __version__,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def of_model(model: nn.Module, spec: Spec, path: Path | None) -> dict[str, Any]:
    """What `model` is by its `spec`, and the file it came from."""
    return {
        "file": path.name if path else "model.safetensors",
        "sha256": sha256(path) if path else None,
        "arch": spec.arch,
        "classes": list(spec.classes),
        "options": dict(spec.options),
        "mean": list(spec.mean),
        "std": list(spec.std),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def of_images(source: str, images: Images, **more: object) -> dict[str, Any]:
    """The source of `images`: its hash where it is one file, and how many there are."""
    path = Path(source)
    return {
        "source": source,
        "sha256": sha256(path) if path.is_file() else None,
        "images": len(images),
        **more,
    }


def of_triggered(source: str | None, triggered: Triggered | None) -> dict[str, Any] | None:
    """The same of triggered images, with the attacker's goal; None if there are none."""
    if source is None or triggered is None:
        return None
    return of_images(source, triggered.images, target=_goal(triggered))


def _goal(triggered: Triggered) -> int | str | None:
    """The one class all triggered images should go to, `all-to-all`, or None if it is neither."""
    goals, labels = triggered.goals, triggered.images.labels
    if bool((goals == goals[0]).all()):
        return int(goals[0])
    if bool((goals == (labels + 1) % len(triggered.images.classes)).all()):
        return "all-to-all"
    return None


def of_method(method: Method) -> dict[str, Any]:
    """The declaration of `method`: its name, paper, limits and every hyper-parameter."""
    return {
        "name": method.name(),
        "paper": method.paper,
        "limits": method.limits,
        "parameters": method.model_dump(mode="json"),
    }


def of_run(run: Run) -> dict[str, Any]:
    """Where and how exactly the work was done, how long it took and how much memory."""
    return {
        "seed": run.seed,
        "device": str(run.device),
        "precision": str(run.dtype).removeprefix("torch."),
        "versions": _versions(),
        "machine": {"cpu": _cpu(), "cores": os.cpu_count()},
        "seconds": {stage: round(spent, 3) for stage, spent in run.seconds.items()},
        "peak_mib": round(_peak_mib(), 1),
    }


def of_score(score: Score) -> dict[str, Any]:
    """The three rates by name, null where nothing could be counted."""
    rates = score.as_json().items()
    return {name: rate if rate and rate["total"] else None for name, rate in rates}


def of_layers(
    silenced: Mapping[str, Tensor], scores: Mapping[str, Tensor], channels: Mapping[str, int]
) -> list[dict[str, Any]]:
    """What was silenced in each layer, and the score of each of its channels."""
    layers = []
    for name, count in channels.items():
        mask, scored = silenced.get(name), scores.get(name)
        layers.append(
            {
                "name": name,
                "channels": count,
                "silenced": mask.nonzero().flatten().tolist() if mask is not None else [],
                "scores": [_finite(value) for value in scored.tolist()]
                if scored is not None
                else None,
            }
        )
    return layers


def _finite(value: float) -> float | None:
    return round(value, 6) if abs(value) < float("inf") else None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
