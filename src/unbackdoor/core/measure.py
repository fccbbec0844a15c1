"""Measuring: counts with intervals, never bare percentages. Always in float32."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from .errors import ImagesError, ModelError, UnbackdoorError, UnbackdoorWarning
from .foreign import place, reason
from .images import Images, Triggered, to_float
from .memory import rows_that_fit
from .modules import device_of, in_mode, with_gradient
from .outputs import probabilities
from .run import Run

TIMES_CHANCE, PART_OF_REST = 2.0, 0.2


@dataclass(frozen=True)
class Rate:
    """`hits` out of `total`."""

    hits: int
    total: int

    @property
    def value(self) -> float:
        """The share in [0, 1]; nan where nothing was counted."""
        return self.hits / self.total if self.total else math.nan

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson's score interval of the share (Wilson 1927); (0, 1) where nothing was counted.

        Examples:
            >>> [round(end, 3) for end in Rate(8, 10).interval()]
            [0.49, 0.943]
        """
        if not self.total:
            return 0.0, 1.0
        z = NormalDist().inv_cdf(0.5 + confidence / 2)
        n, p = self.total, self.value
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)

    def as_json(self) -> dict[str, float]:
        """`{"hits", "total", "value"}`."""
        return {"hits": self.hits, "total": self.total, "value": self.value}


@dataclass(frozen=True)
class Score:
    """ACC on clean images; ASR and RA on triggered ones whose true class is not the goal.

    None where it was not measurable.
    """

    acc: Rate | None = None
    asr: Rate | None = None
    ra: Rate | None = None

    def as_json(self) -> dict[str, dict[str, float] | None]:
        """The three rates by name, null where not measurable."""
        rates = {"acc": self.acc, "asr": self.asr, "ra": self.ra}
        return {name: rate.as_json() if rate else None for name, rate in rates.items()}


def near_chance(classes: int) -> float:
    """The accuracy below which a model of so many classes is near chance.

    Twice chance, but no more than a fifth of the way from chance to 1.

    Examples:
        >>> near_chance(10), near_chance(2)
        (0.2, 0.6)
    """
    chance = 1 / classes
    return min(TIMES_CHANCE * chance, chance + PART_OF_REST * (1 - chance))


def check(model: nn.Module, images: Images) -> None:
    """Raises `ModelError` for weights that are not finite, `ImagesError` for unfit images.

    One pass of at most two images.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError("the model is scripted or traced; give the plain nn.Module it is of")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(tensor, (UninitializedParameter, UninitializedBuffer)):
            raise ModelError(f"{name} has no shape yet; let the model see a batch first")
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{name} holds values that are not finite")
    kinds = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    for kind in kinds - {torch.float32}:
        raise ModelError(f"weights are {str(kind).removeprefix('torch.')}; give model.float()")
    x = to_float(images.pixels[:2]).to(device_of(model))
    with in_mode(model, train=False), torch.no_grad():
        try:
            found = model(x)
        except UnbackdoorError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a network may be anyone's code
            raise ImagesError(
                f"the model cannot take images {list(x.shape[1:])}{place(error)}: {reason(error)}"
            ) from None
    if not isinstance(found, Tensor):
        raise ModelError(
            f"the model gives a {type(found).__name__}, not logits [n, classes]; give a module "
            "that returns them alone"
        )
    if found.shape != (len(x), len(images.classes)):
        raise ImagesError(
            f"the model's output is {list(found.shape)} for {len(x)} images; "
            f"the images have {len(images.classes)} classes"
        )
    if not bool(torch.isfinite(found).all()):
        raise ModelError(
            "the model's outputs are not finite numbers (NaN or infinite): what it would answer "
            "means nothing"
        )
    if probabilities(found):
        warnings.warn(
            "the model's outputs are probabilities (a softmax is its last layer), not logits: what "
            "is measured is right, but defenses train on them badly; take the softmax away if you "
            "can",
            UnbackdoorWarning,
            stacklevel=2,
        )


def logits(model: nn.Module, images: Images, run: Run, batch: int = 500) -> Tensor:
    """The outputs float32 `[n, classes]` of `model` in eval mode, in float32, on the CPU.

    At most `batch` images go through it at once, fewer where little memory is free.
    """
    outputs = []
    with (
        in_mode(model, train=False),
        torch.no_grad(),
        run.stage("evaluation", len(images)) as advance,
    ):
        if len(images):
            batch = rows_that_fit(model, to_float(images.pixels[:1]).to(run.device), batch)
        for x, _ in images.batches(batch):
            x = x.to(run.device, memory_format=torch.channels_last)
            outputs.append(model(x).float().cpu())
            advance(len(x))
    return torch.cat(outputs)


def predictions(model: nn.Module, images: Images, run: Run) -> Tensor:
    """The predicted class int64 `[n]` of each image."""
    return logits(model, images, run).argmax(1)


def accuracy(model: nn.Module, images: Images, run: Run) -> Rate:
    """How many of `images` go to their label."""
    return matches(predictions(model, images, run), images.labels)


def matches(said: Tensor, wanted: Tensor) -> Rate:
    """How many of the classes `[n]` are the same."""
    return Rate(int((said == wanted).sum()), len(said))


def attack_rates(model: nn.Module, triggered: Triggered, run: Run) -> tuple[Rate, Rate]:
    """(ASR, RA): how many triggered images go to the attacker's goal, and to their true class.

    Images whose true class is the goal are not counted.
    """
    counted = triggered.counted()
    predicted = predictions(model, counted.images, run)
    return (
        Rate(int((predicted == counted.goals).sum()), len(predicted)),
        Rate(int((predicted == counted.images.labels).sum()), len(predicted)),
    )


def score(
    model: nn.Module, run: Run, clean: Images | None = None, triggered: Triggered | None = None
) -> Score:
    """ACC on `clean`, ASR and RA on `triggered`; None for what is not given."""
    acc = accuracy(model, clean, run) if clean is not None else None
    asr, ra = attack_rates(model, triggered, run) if triggered is not None else (None, None)
    return Score(acc, asr, ra)


def der(before: Score, after: Score) -> float | None:
    """Defense effectiveness rating in [0, 1]: [max(0, drop in ASR) - max(0, drop in ACC) + 1] / 2.

    Zhu et al. 2023 (FT-SAM). None where a rate is missing.
    """
    if not (before.acc and after.acc and before.asr and after.asr):
        return None
    lost = max(0.0, before.acc.value - after.acc.value)
    won = max(0.0, before.asr.value - after.asr.value)
    return (won - lost + 1) / 2


def seconds_of_step(model: nn.Module, x: Tensor, run: Run) -> float:
    """How long the images `x` take through `model` and back on the device of both: two tries."""
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        with in_mode(model, train=False), torch.enable_grad(), run.autocast():
            loss = model(x).float().logsumexp(1).sum()
        with_gradient(loss)
        loss.backward()
        loss.detach().item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return min(seconds)
