"""The same from Python: read a model and images, repair, evaluate. Public at the package's root."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from . import data
from .checkpoints import checkpoint
from .core.errors import ParameterError, UnbackdoorWarning
from .core.images import Images, Triggered
from .core.measure import Score, check, score
from .core.method import build
from .core.modules import copied, unwrapped
from .core.run import Run
from .defenses.base.defense import Defense, Repair
from .models import Normalized

Source = Any
"""`Images`, the name or path of a source, or a data set: see `load_images`."""


def load_model(
    path: str | Path,
    *,
    arch: str | None = None,
    classes: int | Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    options: Mapping[str, Any] | None = None,
    size: int | Sequence[int] | None = None,
    weights: str | None = None,
) -> Normalized:
    """The model in a checkpoint, in eval mode, taking images `[n, c, h, w]` in [0, 1].

    Reads safetensors, files of torch and TorchScript, BackdoorBench's results and folders of the
    hub, and never runs code from them. The other arguments say what a file cannot, and win over
    what it tells: `size` is a number of pixels or (height, width), `weights` the state dict meant
    where there are several. Raises `CheckpointError`.

    Examples:
        >>> import tempfile, torch
        >>> from unbackdoor.core.spec import Spec
        >>> from unbackdoor.models import create
        >>> folder = tempfile.TemporaryDirectory()
        >>> told = Spec("preact_resnet18", ("cat", "dog"), (0.5,) * 3, (0.2,) * 3, {"width": 2})
        >>> net = create(told)
        >>> torch.save(net.net.state_dict(), f"{folder.name}/bare.pt")
        >>> model = load_model(f"{folder.name}/bare.pt", arch="preact_resnet18",
        ...                    classes=["cat", "dog"], mean=[0.5] * 3, std=[0.2] * 3)
        >>> model(torch.rand(1, 3, 32, 32)).shape
        torch.Size([1, 2])
        >>> folder.cleanup()
    """
    return checkpoint.load(
        path,
        arch=arch,
        classes=_classes(classes),
        mean=_numbers("mean", mean),
        std=_numbers("std", std),
        options=options,
        size=_size(size),
        weights=weights,
    )


def load_images(
    source: Source,
    *,
    size: int | Sequence[int] | None = None,
    channels: int | None = None,
    classes: int | Sequence[str] | None = None,
    download: bool = False,
    columns: tuple[str, str] | None = None,
) -> Images:
    """The images of a source: `digits`, a folder of class folders, `.npz`, parquet, `cifar10`...

    Or of a torch or Hugging Face `Dataset`, a `DataLoader`, arrays (images, labels), or a list of
    (picture, label). `size` (one number or height, width) and `channels` are what the model takes,
    `columns` the names of images and labels in a file. Raises `ImagesError`.

    Examples:
        >>> images = load_images("digits:test", channels=1)
        >>> images.shape, images.classes[:3]
        ((1, 32, 32), ('0', '1', '2'))
    """
    asked: dict[str, Any] = {
        "size": _size(size),
        "channels": channels,
        "classes": _class_names(classes),
    }
    if not isinstance(source, str | Path):
        return data.of_objects(source, **asked)
    if data.as_text(source, asked["classes"]) is not None:
        warnings.warn(
            f"the class folders of {source} are called by numbers, and are taken so: 2 before 10. "
            "torchvision's ImageFolder sorts them as text, 10 before 2; if the model was trained "
            "on that, give classes= in its order",
            UnbackdoorWarning,
            stacklevel=2,
        )
    return data.open_images(source, **asked, download=download, columns=columns)


def load_triggered(
    source: str | Path,
    target: int | str | None = None,
    *,
    size: int | Sequence[int] | None = None,
    channels: int | None = None,
    classes: int | Sequence[str] | None = None,
    columns: tuple[str, str] | None = None,
) -> Triggered:
    """Triggered test images labelled with their true class, and the class the attacker wants.

    `target` is that class by its number or name, or `all-to-all`; a BackdoorBench result holds its
    own. Raises `ImagesError`.

    Examples:
        >>> stamped = load_triggered("digits:test", target=0)
        >>> set(stamped.goals.tolist())
        {0}
    """
    asked: dict[str, Any] = {
        "size": _size(size),
        "channels": channels,
        "classes": _class_names(classes),
    }
    return data.open_triggered(source, _whole("target", target), **asked, columns=columns)


def repair(
    model: nn.Module,
    clean: Source,
    defense: str = "fmp_plus",
    *,
    run: Run | None = None,
    **parameters: object,
) -> Repair:
    """The repair of a copy of `model`, given clean images; the model that came in stays as it was.

    `clean` is `Images`, or what `load_images` takes. `model` takes images `[n, c, h, w]` in [0, 1]
    and may be any `nn.Module` that `defense` can handle; `parameters` are the fields of the
    defense. Raises `UnbackdoorError`.

    Examples:
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
    return method.repair(unwrapped(model), _fitting(model, clean), run or Run())


def evaluate(
    model: nn.Module,
    test: Source | None = None,
    triggered: Triggered | None = None,
    *,
    run: Run | None = None,
) -> Score:
    """ACC of `model` on `test`, ASR and RA on `triggered`; None for what is not given.

    Raises `ModelError` for weights that are not finite, `ImagesError` for images that do not fit.

    Examples:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 10))
        >>> score = evaluate(net, load_images("digits:test", channels=1))
        >>> 0 <= score.acc.value <= 1, score.asr
        (True, None)
    """
    run, model = run or Run(), unwrapped(model)
    test = None if test is None else _fitting(model, test)
    for images in (test, triggered.images if triggered else None):
        if images is not None and len(images):
            check(model, images)
    return score(copied(model).to(run.device), run, test, triggered)


def _fitting(model: nn.Module, source: Source) -> Images:
    """The images of `source`, in what `model` takes as far as it tells."""
    if isinstance(source, Images):
        return source
    if not isinstance(model, Normalized):
        return load_images(source)
    spec = model.spec
    return load_images(source, size=spec.size, channels=model.channels, classes=spec.classes)


def _numbers(name: str, given: Any) -> tuple[float, ...] | None:
    """A mean or std as one number for each channel; a single number is for three."""
    if given is None:
        return None
    try:
        found = np.asarray(given, dtype=float)
    except (TypeError, ValueError):
        raise ParameterError(f"{name} must be numbers, one a channel, got {given!r}") from None
    return tuple(map(float, np.repeat(found, 3) if found.ndim == 0 else found.ravel()))


def _whole(name: str, given: Any) -> Any:
    """Integers of NumPy and torch as Python's; everything else as it is."""
    if isinstance(given, np.integer) or (isinstance(given, Tensor) and given.ndim == 0):
        return int(given)
    if given is not None and not isinstance(given, int | str):
        raise ParameterError(f"{name} must be a number or a name, got {given!r}")
    return given


def _asked(size: Any, channels: int | None, classes: Any) -> dict[str, Any]:
    """What images should be, as the room of data takes it."""
    return {"size": _size(size), "channels": channels, "classes": _class_names(classes)}


def _classes(given: Any) -> int | tuple[str, ...] | None:
    """A count of classes, or their names as text."""
    if given is None or isinstance(given, int | np.integer):
        return None if given is None else int(given)
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ParameterError(f"classes must be a count or a list of names, got {given!r}")
    return tuple(map(str, given))


def _class_names(given: Any) -> tuple[str, ...] | None:
    found = _classes(given)
    return tuple(map(str, range(found))) if isinstance(found, int) else found


def _size(given: Any) -> tuple[int, int] | None:
    """(height, width); one number is both."""
    if given is None:
        return None
    sides = (given, given) if isinstance(given, int | np.integer) else given
    try:
        height, width = map(int, sides)
    except (TypeError, ValueError):
        raise ParameterError(f"size must be a number or (height, width), got {given!r}") from None
    if min(height, width) < 1:
        raise ParameterError(f"size must be at least 1 x 1 pixels, got {given!r}")
    return height, width
