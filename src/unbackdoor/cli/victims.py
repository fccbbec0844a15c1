"""What `attack` reads and writes: images, the state of a training, and the victim's folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import api
from ..attacks.base.attack import STAMPED, Attack, Victim
from ..attacks.base.planting import Network
from ..attacks.base.visibility import visibility
from ..checkpoints import checkpoint
from ..core import measure
from ..core.errors import ImagesError, OutputError, ParameterError, UnbackdoorError
from ..core.files import inside, sha256, write_whole
from ..core.images import Images, Triggered
from ..core.measure import Rate, Score
from ..core.run import Run
from ..models import Normalized
from ..training.fit import read_state
from . import inputs, options, output

JUDGED_BY_EYE = 2000
"""Images that the visibility is measured on."""
TRAINING = "training"
MODEL, TRIGGERED = "model.safetensors", "triggered_test.npz"


@dataclass(frozen=True)
class Start:
    """The network to train: a checkpoint `file`, or fresh weights for the architecture `arch`."""

    file: Path | None
    arch: str | None
    classes: str | None
    mean: str | None
    std: str | None
    options: Sequence[str] | None

    def check(self, attack: Attack) -> None:
        """Raises `ParameterError` for what means nothing with such a start."""
        if self.file:
            return
        if self.arch is None:
            raise ParameterError("name the network with --arch, or a file to start from (--model)")
        if self.classes:
            raise ParameterError("--classes is for --model; else the images say their classes")
        if getattr(attack, "clean_epochs", None) == 0:
            raise ParameterError(
                "clean_epochs=0 takes the model as given, and fresh weights know nothing; "
                "give a trained one (--model FILE)"
            )

    def load(
        self, data: str, test: str | None, run: Run, *, download: bool
    ) -> tuple[Normalized, Images, Images]:
        """(model, training images, test images), which fit each other."""
        if self.file:
            given = (self.file, self.arch, self.classes, self.mean, self.std, self.options)
            model = inputs.Described(*given).load()
            names = model.spec.classes
            train, judged = images(data, test, run, model.channels, names, download=download)
            return model, train, judged
        assert self.arch
        network = Network(
            self.arch,
            options.values("--model-option", self.options),
            options.numbers("--mean", self.mean),
            options.numbers("--std", self.std),
        )
        train, judged = images(data, test, run, network.channels, download=download)
        return network.build(train, run), train, judged


def images(
    data: str,
    test: str | None,
    run: Run,
    channels: int | None,
    classes: Sequence[str] | None = None,
    *,
    download: bool,
) -> tuple[Images, Images]:
    """(training images, test images); without `test` a tenth of the data is held out."""
    train = api.load_images(data, channels=channels, classes=classes, download=download)
    if test is None:
        if len(train) < 2:
            raise ImagesError(f"{data} holds {len(train)} images; training and testing need more")
        judged, rest = held_out(len(train), run)
        return train[rest], train[judged]
    size, channels = train.shape[1:], train.shape[0]
    return train, api.load_images(
        test, size=size, channels=channels, classes=train.classes, download=download
    )


def held_out(total: int, run: Run) -> tuple[torch.Tensor, torch.Tensor]:
    """The numbers of the tenth of `total` images that is held out, and those of the rest."""
    order = torch.randperm(total, generator=run.rng("held out"))
    tenth = max(1, total // 10)
    return order[:tenth], order[tenth:].sort().values


def rows(train: Images, judged: Images, test: str | None, run: Run) -> torch.Tensor | None:
    """The numbers that training images have in their source; None where all of it is trained on."""
    return None if test else held_out(len(train) + len(judged), run)[1]


def check_asked(attack: Attack, test: str | None) -> None:
    """Raises `ParameterError` for parameters that exclude each other."""
    if attack.indices is not None and test is None:
        raise ParameterError(
            "indices are numbers of the training images; without --test a tenth of these would be "
            "held out: give --test"
        )
    if attack.all_to_all and "target" in attack.model_fields_set:
        raise ParameterError(
            "all_to_all sends each class to the next one; give it or a target, not both"
        )


def check(attack: Attack, model: Normalized, train: Images, judged: Images) -> None:
    """Raises where the attack, or the model, does not fit the images."""
    measure.check(model, judged)
    check_images(attack, train, judged)


def check_images(attack: Attack, train: Images, judged: Images) -> None:
    """Raises where the attack does not fit the images."""
    if len(train) < 2:
        raise ImagesError(f"training needs at least 2 images, got {len(train)}")
    attack.check(train)
    if not len(attack.aimed(judged).images):
        raise ImagesError(
            "the true class of every test image is the target, or none is of the kind that is "
            "poisoned; none can be counted"
        )
    if attack.closed_form():
        attack.triggered(judged[:2])


def training(out: Path, arguments: Mapping[str, Any], *, force: bool) -> Path:
    """The file that keeps the state of the training, and beside it what is trained.

    Raises where another training has begun there, or its state is damaged, and not `force`.
    """
    folder = inside(out, TRAINING)
    if folder.is_symlink():
        raise OutputError(f"{folder} is a link, so nothing is written there; take it away")
    told, state = folder / "arguments.json", folder / "state.pt"
    wanted = json.loads(json.dumps(arguments))
    try:
        try:
            _check_begun(told, state, wanted)
        except UnbackdoorError:
            if not force:
                raise
            shutil.rmtree(folder)
        write_whole(told, json.dumps(wanted, indent=1).encode())
    except OSError as error:
        raise OutputError(f"cannot write to {out}: {error.strerror or error}") from None
    return state


def _check_begun(told: Path, state: Path, wanted: Mapping[str, Any]) -> None:
    """Raises where what was begun before cannot go on as what is `wanted`."""
    if told.is_file():
        try:
            known = json.loads(told.read_text(encoding="utf-8"))
        except ValueError:
            raise OutputError(f"{told} is damaged; start anew with --force") from None
        other = [key for key in wanted if known.get(key) != wanted[key]]
        if other:
            raise OutputError(
                f"{told.parent} holds a training that was begun with another {', '.join(other)}; "
                "repeat that command, or start anew with --force"
            )
    if state.is_file():
        read_state(state)


def measured(victim: Victim, judged: Images, stamped: Triggered, run: Run) -> Score:
    """ACC, ASR and RA of a victim."""
    return measure.score(victim.model, run, judged, stamped)


def elsewhere(attack: Attack, victim: Victim, judged: Images, run: Run) -> Rate | None:
    """The ASR on triggered images of classes that are no sources; None without sources."""
    found = attack.elsewhere(judged, victim.learned)
    return measure.attack_rates(victim.model, found, run)[0] if found else None


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


def write(out: Path, victim: Victim, stamped: Triggered, told: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the victim, its triggered test images and the record into `out`, or nothing.

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
        goals=stamped.goals.numpy(),
        classes=np.array(stamped.images.classes),
    )
