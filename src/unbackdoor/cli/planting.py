"""What `attack` and `demo` share: the network, the images, the victim and what it learned."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import api, checkpoint, measure, models
from ..attack import STAMPED, Attack, Victim
from ..errors import ImagesError, OutputError, ParameterError, UnbackdoorWarning
from ..images import Images, Triggered, to_float
from ..measure import Rate, Score
from ..models import Normalized, Spec
from ..run import Run
from ..untrusted import sha256
from ..visibility import visibility
from . import output

LEARNED_STAMPED, LEARNED_CLEAN = 0.95, 0.90
"""A victim that learned less of its training images flatters every defense."""
JUDGED_BY_EYE = 2000
"""Images that the visibility is measured on."""
TRAINING = "training"
MODEL, TRIGGERED = "model.safetensors", "triggered_test.npz"


@dataclass(frozen=True)
class Network:
    """The network to train; without mean and std it takes those of its training images."""

    arch: str
    options: Mapping[str, Any]
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    @property
    def channels(self) -> int | None:
        """The channels of its images, as far as its options say."""
        found = self.options.get("in_channels", self.options.get("in_chans"))
        return found if isinstance(found, int) else None

    def build(self, train: Images, run: Run) -> Normalized:
        """The network with fresh weights, for the classes and the values of `train`."""
        if (self.mean is None) != (self.std is None):
            raise ParameterError("--mean and --std belong together; only one is given")
        mean, std = self.mean, self.std
        if mean is None or std is None:
            mean, std = _scale(train)
        spec = Spec(self.arch, train.classes, tuple(mean), tuple(std), dict(self.options))
        model = models.create(spec, run.rng("weights"))
        measure.check(model, train)
        return model


def _scale(train: Images) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of at most 5,000 images, three digits of them."""
    x = to_float(train.pixels[:5000])
    mean, std = x.mean((0, 2, 3)), x.std((0, 2, 3)).clamp_min(1e-3)
    return [round(float(v), 3) for v in mean], [round(float(v), 3) for v in std]


def images(
    data: str, test: str | None, network: Network, run: Run, *, download: bool
) -> tuple[Images, Images]:
    """(training images, test images); without `test` a tenth of the data is held out."""
    train = api.load_images(data, channels=network.channels, download=download)
    if test is None:
        if len(train) < 2:
            raise ImagesError(f"{data} holds {len(train)} images; training and testing need more")
        judged, train = train.split(max(1, len(train) // 10), run.rng("held out"))
        return train, judged
    size, channels = train.shape[1:], train.shape[0]
    return train, api.load_images(
        test, size=size, channels=channels, classes=train.classes, download=download
    )


def check(attack: Attack, model: Normalized, train: Images, judged: Images) -> None:
    """Raises where the attack does not fit the images."""
    measure.check(model, judged)
    if len(train) < 2:
        raise ImagesError(f"training needs at least 2 images, got {len(train)}")
    attack.check(train)
    if not len(attack.aimed(judged).images):
        raise ImagesError("the true class of every test image is the target; none can be counted")
    if attack.closed_form():
        attack.triggered(judged[:2])


def training(out: Path, arguments: Mapping[str, Any], *, force: bool) -> Path:
    """The file that keeps the state of the training, and beside it what is trained.

    Raises `OutputError` where another training has begun there and not `force`.
    """
    folder = out / TRAINING
    told = folder / "arguments.json"
    wanted = json.loads(json.dumps(arguments))
    try:
        if told.is_file():
            known = json.loads(told.read_text(encoding="utf-8"))
            other = [key for key in wanted if known.get(key) != wanted[key]]
            if other and not force:
                raise OutputError(
                    f"{folder} holds a training that was begun with another {', '.join(other)}; "
                    "repeat that command, or start anew with --force"
                )
            if other:
                shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        told.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
    except json.JSONDecodeError:
        raise OutputError(f"{told} is damaged; start anew with --force") from None
    except OSError as error:
        raise OutputError(f"cannot write to {out}: {error.strerror or error}") from None
    return folder / "state.pt"


def measured(victim: Victim, judged: Images, stamped: Triggered, run: Run) -> Score:
    """ACC, ASR and RA of a victim."""
    return measure.score(victim.model, run, judged, stamped)


def learned(attack: Attack, victim: Victim, train: Images, run: Run) -> dict[str, Rate]:
    """How many of the stamped and of the clean training images the victim gives their label.

    Without augmentation; images of other roles are not counted.
    """
    return {
        kind: measure.accuracy(victim.model, images, run)
        for kind, images in attack.taught(victim, train, run).items()
        if len(images)
    }


def seen(
    attack: Attack, victim: Victim, train: Images, judged: Images, stamped: Triggered
) -> dict[str, dict[str, float | None] | None]:
    """How visible the trigger is, at test and in the training set; null without a fixed one."""
    part = slice(JUDGED_BY_EYE)
    found = {"test": visibility(attack.aimed(judged).images[part], stamped.images[part]).as_json()}
    if victim.poisoned is None:
        return {**found, "training": None}
    rows = (victim.poisoned.role == STAMPED).nonzero().flatten()[part]
    return {
        **found,
        "training": visibility(train[rows], victim.poisoned.images[rows]).as_json(),
    }


def warn_of_weakness(learned: Mapping[str, Rate]) -> None:
    """Warns where the victim learned less than it should have."""
    for kind, wanted in (("stamped", LEARNED_STAMPED), ("clean", LEARNED_CLEAN)):
        if kind in learned and learned[kind].value < wanted:
            warnings.warn(
                f"the victim learned {100 * learned[kind].value:.1f} % of its {kind} training "
                f"images, less than {100 * wanted:.0f} %: it flatters every defense; train for "
                "longer (-p epochs=N)",
                UnbackdoorWarning,
                stacklevel=2,
            )


def write(out: Path, victim: Victim, stamped: Triggered, told: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the victim, its stamped test images and the record into `out`, or nothing.

    Gives back the record as it was written.
    """
    model = victim.model
    assert isinstance(model, Normalized)
    provenance = {key: told[key] for key in ("command", "unbackdoor", "started", "attack")}
    with output.written(out) as folder:
        checkpoint.save(model, folder / MODEL, provenance)
        save_triggered(stamped, folder / TRIGGERED)
        written = {
            "output": {"file": MODEL, "sha256": sha256(folder / MODEL)},
            "triggered": {**told["triggered"], "sha256": sha256(folder / TRIGGERED)},
        }
        full = {**told, **written}
        output.write_json(folder / output.RECORD, full)
    shutil.rmtree(out / TRAINING, ignore_errors=True)
    return full


def save_triggered(stamped: Triggered, path: Path) -> None:
    """Writes the images and their true labels where `open_triggered` can read them."""
    pixels = stamped.images.pixels
    np.savez_compressed(
        path,
        images=pixels.numpy(),
        labels=stamped.images.labels.numpy(),
        classes=np.array(stamped.images.classes),
    )
