"""The same from Python: read a model and images, repair, evaluate. Public at the package's root."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn

from . import data
from .checkpoints import checkpoint
from .core.images import Images, Triggered
from .core.measure import Score, check, score
from .core.method import build
from .core.run import Run
from .defenses.base.defense import Defense, Repair
from .models import Normalized


def load_model(
    path: str | Path,
    *,
    arch: str | None = None,
    classes: int | Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Normalized:
    """The model in a checkpoint, in eval mode, taking images `[n, c, h, w]` in [0, 1].

    Reads `.safetensors`, `.pt` and `.pth` state dicts and BackdoorBench's `attack_result.pt`, and
    never runs code from a file. The other arguments say what a bare state dict cannot.
    Raises `CheckpointError`.

    >>> import tempfile, torch
    >>> from unbackdoor.core.spec import Spec
    >>> from unbackdoor.models import create
    >>> folder = tempfile.TemporaryDirectory()
    >>> net = create(Spec("preact_resnet18", ("cat", "dog"), (0.5,) * 3, (0.2,) * 3, {"width": 2}))
    >>> torch.save(net.net.state_dict(), f"{folder.name}/bare.pt")
    >>> model = load_model(f"{folder.name}/bare.pt", arch="preact_resnet18",
    ...                    classes=["cat", "dog"], mean=[0.5] * 3, std=[0.2] * 3)
    >>> model(torch.rand(1, 3, 32, 32)).shape
    torch.Size([1, 2])
    >>> folder.cleanup()
    """
    return checkpoint.load(path, arch=arch, classes=classes, mean=mean, std=std, options=options)


def load_images(
    source: str | Path,
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    classes: Sequence[str] | None = None,
    download: bool = False,
) -> Images:
    """The images of a source: `digits`, a folder of class folders, `.npz`, parquet, `cifar10`...

    `size` (height, width) and `channels` are what the model takes. Raises `ImagesError`.

    >>> images = load_images("digits:test", channels=1)
    >>> images.shape, images.classes[:3]
    ((1, 32, 32), ('0', '1', '2'))
    """
    return data.open_images(
        source, size=size, channels=channels, classes=classes, download=download
    )


def load_triggered(
    source: str | Path,
    target: int | Literal["all-to-all"] | None = None,
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    classes: Sequence[str] | None = None,
) -> Triggered:
    """Stamped test images labelled with their true class, and the class the attacker wants.

    `target` is that class, or `all-to-all`; a BackdoorBench result holds its own.
    Raises `ImagesError`.

    >>> stamped = load_triggered("digits:test", target=0)
    >>> set(stamped.goals.tolist())
    {0}
    """
    return data.open_triggered(source, target, size=size, channels=channels, classes=classes)


def repair(
    model: nn.Module,
    clean: Images,
    defense: str = "fmp_plus",
    *,
    run: Run | None = None,
    **parameters: object,
) -> Repair:
    """The repair of a copy of `model`, given clean images; the model that came in stays as it was.

    `model` takes images `[n, c, h, w]` in [0, 1] and may be any `nn.Module` that `defense` can
    handle; `parameters` are the fields of the defense. Raises `UnbackdoorError`.

    >>> import torch
    >>> net = torch.nn.Sequential(
    ...     torch.nn.Conv2d(1, 4, 3, stride=4), torch.nn.Flatten(), torch.nn.Linear(256, 10))
    >>> digits = load_images("digits:test", channels=1)[:20]
    >>> repaired = repair(net, digits, "fmp", p=4, epochs=1, flip=False)
    >>> int(repaired.silenced["0"].sum())
    1
    """
    method = build("defense", defense, parameters)
    assert isinstance(method, Defense)
    return method.repair(model, clean, run or Run())


def evaluate(
    model: nn.Module,
    test: Images | None = None,
    triggered: Triggered | None = None,
    *,
    run: Run | None = None,
) -> Score:
    """ACC of `model` on `test`, ASR and RA on `triggered`; None for what is not given.

    Raises `ModelError` for weights that are not finite, `ImagesError` for images that do not fit.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 10))
    >>> score = evaluate(net, load_images("digits:test", channels=1))
    >>> 0 <= score.acc.value <= 1, score.asr
    (True, None)
    """
    run = run or Run()
    for images in (test, triggered.images if triggered else None):
        if images is not None and len(images):
            check(model, images)
    return score(copy.deepcopy(model).to(run.device), run, test, triggered)
