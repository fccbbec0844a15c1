"""The same from Python: read, poison, attack, repair, scan, evaluate. Public at the root."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from . import data, evidence
from .attacks.base import planting
from .attacks.base.attack import Attack
from .attacks.base.parts import Poison, Victim
from .checkpoints import checkpoint
from .core.arguments import asked, numbers, whole
from .core.arguments import classes as classes_of
from .core.arguments import columns as columns_of
from .core.arguments import size as size_of
from .core.errors import ParameterError
from .core.images import Images, Triggered
from .core.measure import Score, check, score
from .core.method import build
from .core.modules import copied, unwrapped
from .core.run import Run
from .defenses.base.defense import Defense, Repair
from .models import Normalized
from .scanners.base import calibration as calibrations
from .scanners.base.scanner import Scanner
from .scanners.base.verdict import Verdict, judged, usual

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
        classes=classes_of(classes),
        mean=numbers("mean", mean),
        std=numbers("std", std),
        options=options,
        size=size_of(size),
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

    Or of `Images`, a torch or Hugging Face `Dataset`, a `DataLoader`, arrays (images, labels), or a
    list of (picture, label). `size` (one number or height, width) and `channels` are what the model
    takes, `columns` the names of images and labels in it. Raises `ImagesError`.

    Examples:
        >>> images = load_images("digits:test", channels=1)
        >>> images.shape, images.classes[:3]
        ((1, 32, 32), ('0', '1', '2'))
    """
    wanted = {**asked(size, channels, classes), "columns": columns_of(columns)}
    if not isinstance(source, str | Path):
        return data.of_objects(source, **wanted)
    found = data.open_images(source, **wanted, download=download)
    data.warn_of_numbers(source, wanted["classes"])
    return found


def load_triggered(
    source: Source,
    target: int | str | None = None,
    *,
    size: int | Sequence[int] | None = None,
    channels: int | None = None,
    classes: int | Sequence[str] | None = None,
    columns: tuple[str, str] | None = None,
) -> Triggered:
    """Triggered test images labelled with their true class, and the class the attacker wants.

    `source` is what `load_images` takes; `target` is that class by its number or name, or
    `all-to-all`; a BackdoorBench result holds its own. Raises `ImagesError`.

    Examples:
        >>> stamped = load_triggered("digits:test", target=0)
        >>> set(stamped.goals.tolist())
        {0}
    """
    wanted = {**asked(size, channels, classes), "columns": columns_of(columns)}
    goal = whole("target", target)
    if not isinstance(source, str | Path):
        return data.with_goals(data.of_objects(source, **wanted), goal)
    return data.open_triggered(source, goal, **wanted)


def repair(
    model: nn.Module,
    clean: Source,
    defense: str = "uat",
    *,
    run: Run | None = None,
    **parameters: object,
) -> Repair:
    """The repair of a copy of `model`, given clean images; the model that came in stays as it was.

    `clean` is `Images`, or what `load_images` takes. `model` takes images `[n, c, h, w]` in [0, 1]
    and may be any `nn.Module` that `defense` can handle; `parameters` are the fields of the
    defense. Warns where the model's answers say that the images are read wrongly, and of classes
    with few images (as here). How long it will take is not said: `Run(progress=...)` is told of
    each step. Raises `UnbackdoorError`.

    Examples:
        >>> import torch
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(1, 4, 3, stride=4), torch.nn.Flatten(), torch.nn.Linear(256, 10))
        >>> digits = load_images("digits:test", channels=1)[:20]
        >>> repaired = repair(net, digits, "fmp", p=4, epochs=1, flip=False)
        >>> int(repaired.silenced["0"].sum())
        1
    """
    method = build("defense", defense, parameters, mirrored=data.mirrored(clean))
    assert isinstance(method, Defense)
    model, run = unwrapped(model), run or Run()
    images = evidence.clean_images(model, clean, run)
    evidence.warn_thin(images)
    return method.repair(model, images, run)


def scan(
    model: nn.Module,
    clean: Source | None,
    scanner: str | None = None,
    *,
    minutes: float | None = None,
    calibration: str | Path | None = None,
    run: Run | None = None,
    **parameters: object,
) -> Verdict:
    """Whether `model` shows signs of a backdoor, and for which class; it stays as it was.

    `clean` is what `load_images` takes, 20 images a class are enough; None is for `last_layer`. The
    score is compared with clean models of the same kind, of the package or a `calibration` file;
    without any `targeted` compares with other kinds. The default is `latent` where it is
    calibrated, else `targeted`; `minutes` is the budget. Raises `UnbackdoorError`.

    Examples:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 10))
        >>> str(scan(net, load_images("digits:test", channels=1), "last_layer").outcome)
        'not judged'
    """
    model = unwrapped(model)
    known = calibrations.read(Path(calibration)) if calibration else calibrations.shipped()
    method = build("scanner", scanner or usual(model, known), parameters)
    assert isinstance(method, Scanner)
    if clean is None:
        method.go_without_images()
    images = evidence.blank(model) if clean is None else evidence.read(model, clean)
    return judged(method, model, images, run or Run(), known, minutes, real=clean is not None)


def poison(
    train: Source,
    attack: str = "badnets",
    *,
    test: Source | None = None,
    model: nn.Module | None = None,
    run: Run | None = None,
    **parameters: object,
) -> Poison:
    """Poisoned training data, and test images with the trigger, without training a victim.

    `train` and `test` are `Images`, or what `load_images` takes; `parameters` are the fields of the
    attack. A trigger that is learned on a network needs `model`, untrained, of the victim's kind.
    Raises `ParameterError` for an attack that controls the training, which has no such data.

    >>> train, test = (load_images(f"digits:{part}", channels=1) for part in ("train", "test"))
    >>> found = poison(train, "badnets", rate=0.1, test=test)
    >>> len(found.poisoned.rows()) == round(0.1 * len(train))
    True
    """
    method, run = _attack(attack, parameters, train), run or Run()
    method.check_fixed()
    images = load_images(train)
    if model is None and method.on_network and not method.closed_form():
        raise ParameterError(f"{attack} learns its trigger on a network: give model")
    judged = None if test is None else load_images(test, classes=images.classes)
    return planting.poisoned(method, model, images, judged, run)


def attack(
    model: nn.Module,
    train: Source,
    attack: str = "badnets",
    *,
    test: Source | None = None,
    run: Run | None = None,
    **parameters: object,
) -> Victim:
    """A copy of `model` with a backdoor, trained on `train`; the model that came in stays as it is.

    `parameters` are the fields of the attack, those of the training among them. Images of `test`
    with the trigger are in the victim's `triggered`, and in `elsewhere` if they are of no source:
    for `evaluate`. Warns where the victim learned too little (`taught`) to judge a repair by.
    Raises `UnbackdoorError`.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(
    ...     torch.nn.AvgPool2d(2), torch.nn.Flatten(),
    ...     torch.nn.Linear(256, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    >>> victim = attack(net, load_images("digits:train", channels=1), "badnets",
    ...                 size=8, epochs=25, lr=0.1, batch=32, flip=False)
    >>> len(victim.poisoned.rows()) > 100
    True
    """
    method, run, model = _attack(attack, parameters, train), run or Run(), unwrapped(model)
    images = evidence.read(model, train)
    planting.warn_of_mirrors(method, images)
    judged = None if test is None else evidence.read(model, test)
    return planting.completed(method, method.plant(model, images, run), images, judged, run)


def _attack(name: str, parameters: Mapping[str, object], train: Source) -> Attack:
    found = build("attack", name, parameters, mirrored=data.mirrored(train))
    assert isinstance(found, Attack)
    return found


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
    test = None if test is None else evidence.read(model, test)
    if triggered is not None:
        if not isinstance(triggered, Triggered):
            raise ParameterError("triggered must be what load_triggered gives")
        if isinstance(model, Normalized):
            triggered = data.fitted(triggered, **evidence.taken(model))
        if len(triggered.images):
            check(model, triggered.images)
    return score(copied(model).to(run.device), run, test, triggered)
