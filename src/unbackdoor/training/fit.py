"""fit(): the one training loop, the augmentation it uses, and statistics of norms to match."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from ..core.errors import CheckpointError, ModelError, OutputError
from ..core.files import whole
from ..core.images import Images
from ..core.modules import fast_layout, in_mode, lay_out_, with_gradient
from ..core.run import Run

Objective = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(model, x, y) -> the loss to minimise, a scalar."""

PAUSE = 20.0
"""Seconds between two saves of a training's state: a large network's takes one, and few images make
hundreds of epochs."""


def cross_entropy(smoothing: float = 0.0) -> Objective:
    """Cross-entropy of the logits, with label smoothing in [0, 1)."""

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(x).float(), y, label_smoothing=smoothing)

    return loss


def augment(x: Tensor, rng: torch.Generator | None, *, flip: bool) -> Tensor:
    """Each image cropped at an offset of its own from a zero-padded copy, and perhaps mirrored.

    `x` is `[n, c, h, w]`; the padding is an eighth of the height (4 pixels at 32). `rng` is on its
    device, or the CPU; None for torch's global generator of the device.
    """
    n, _, h, w = x.shape
    pad = h // 8
    windows = F.pad(x, (pad, pad, pad, pad)).unfold(2, h, 1).unfold(3, w, 1)
    at = rng.device if rng else x.device
    dy, dx = torch.randint(0, 2 * pad + 1, (2, n), generator=rng, device=at).to(x.device)
    crops = windows[torch.arange(n, device=x.device), :, dy, dx]
    if not flip:
        return crops
    mirrored = torch.rand(n, generator=rng, device=at) < 0.5
    return torch.where(mirrored.view(n, 1, 1, 1).to(x.device), crops.flip(-1), crops)


def cosine(step: int, steps: int) -> float:
    """The share of the learning rate left before `step` of `steps`: from 1 down to 0."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def constant(step: int, steps: int) -> float:
    """All of the learning rate, at every step."""
    return 1.0


def fit(
    model: nn.Module,
    images: Images,
    run: Run,
    *,
    epochs: int,
    lr: float,
    batch: int = 128,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    crop: bool = True,
    flip: bool = True,
    objective: Objective | None = None,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
    schedule: Callable[[int, int], float] = cosine,
    after_step: Callable[[nn.Module], object] | None = None,
    until: Callable[[nn.Module], bool] | None = None,
    stage: str = "training",
    resume: Path | None = None,
) -> None:
    """Trains `model` in place on `images`: SGD with a cosine schedule unless told otherwise.

    `optimizer` makes another one of the parameters; it is stepped with a closure. `after_step` is
    called with the model after every step; after an epoch for which `until` holds, training ends.
    With `resume`, the state after the last epoch, and after one every `PAUSE` seconds, is kept in
    that file, and a later call with the same arguments goes on from there, bit for bit.
    Raises `ModelError` when the loss is no longer finite, `CheckpointError` for a damaged `resume`.
    """
    loss_of = objective or cross_entropy()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ModelError("no parameter of the model asks for a gradient, so it cannot be trained")
    step_with = (
        optimizer(parameters)
        if optimizer
        else torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)
    )
    rates = [group["lr"] for group in step_with.param_groups]
    per_epoch = math.ceil(len(images) / batch)
    layout = fast_layout(model)
    lay_out_(model.to(run.device), layout)
    first = _load_state(resume, model, step_with) if resume else 0
    keeper = _Keeper(resume)
    with (
        in_mode(model, train=True),
        run.stage(stage, epochs * per_epoch, first * per_epoch) as advance,
    ):
        for epoch in range(first, epochs):
            rng = run.rng(f"{stage}/{epoch}")
            with run.isolated(f"{stage}/{epoch}/global"):
                for index, (x, y) in enumerate(images.batches(batch, rng)):
                    step = epoch * per_epoch + index
                    for group, rate in zip(step_with.param_groups, rates, strict=True):
                        group["lr"] = rate * schedule(step, epochs * per_epoch)
                    if crop:
                        x = augment(x, rng, flip=flip)
                    x, y = _sent(x, run.device, layout), _sent(y, run.device)
                    loss = _step(model, x, y, loss_of, step_with, run)
                    if after_step:
                        after_step(model)
                    advance(1)
            if not bool(torch.isfinite(loss)):
                raise ModelError(f"{stage} diverged in epoch {epoch + 1}: the loss is {loss:g}")
            keeper.keep(model, step_with, epoch + 1, last=epoch + 1 == epochs)
            if until and until(model):
                break


@torch.no_grad()
def estimate_norms_(model: nn.Module, images: Images, run: Run, *, batch: int, flip: bool) -> None:
    """Makes the statistics of `model`'s batch norms the averages over batches of these images.

    They are augmented as in training: norms that learned on shifted images are off by points of
    ACC with the statistics of unshifted ones.
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    rng = run.rng("norms")
    with in_mode(model, train=True), run.isolated("norms/global"), run.autocast():
        for x, _ in images.batches(batch, rng):
            model(augment(x, rng, flip=flip).to(run.device))
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum


@torch.no_grad()
def follow_norms_(model: nn.Module, x: Tensor, momentum: float) -> None:
    """Moves the statistics of `model`'s batch norms towards those of the images `x`, by `momentum`.

    In eval mode but for the norms, so that no dropout changes what they see; the mode stays.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    before = [norm.momentum for norm in norms]
    with in_mode(model, train=False):
        for norm in norms:
            norm.train()
            norm.momentum = momentum
        model(x.clone())  # a forward may change its input
    for norm, own in zip(norms, before, strict=True):
        norm.momentum = own


def _sent(
    tensor: Tensor, device: torch.device, layout: torch.memory_format = torch.preserve_format
) -> Tensor:
    """`tensor` on `device`; on its way to a GPU no step that is under way there is waited for."""
    given = tensor.pin_memory() if device.type == "cuda" else tensor
    return given.to(device, memory_format=layout, non_blocking=True)


def _step(
    model: nn.Module, x: Tensor, y: Tensor, loss_of: Objective, optimizer: Optimizer, run: Run
) -> Tensor:
    # Optimizers are typed for closures that give a float; a tensor saves waiting for the device.
    def closure() -> Any:
        optimizer.zero_grad(set_to_none=True)
        with torch.enable_grad(), run.autocast():
            loss = with_gradient(loss_of(model, x, y))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    loss: Any = optimizer.step(closure)
    assert isinstance(loss, Tensor)
    return loss


class _Keeper:
    """Saves the state of a training in `path`, if there is one: now and then, and at the end.

    What took less than `PAUSE` may be lost with the power: it is soon made again.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.begun = self.saved = time.monotonic()

    def keep(self, model: nn.Module, optimizer: Optimizer, epoch: int, *, last: bool) -> None:
        now = time.monotonic()
        if self.path and (last or now - self.saved >= PAUSE):
            lasting = now - self.begun >= PAUSE
            _save_state(self.path, model, optimizer, epoch, lasting=lasting)
            self.saved = time.monotonic()


def _save_state(
    path: Path, model: nn.Module, optimizer: Optimizer, epoch: int, *, lasting: bool
) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
    try:
        with whole(path, lasting=lasting) as half, half.open("wb") as file:
            torch.save(state, file)
    except RuntimeError as error:  # torch's way to tell of a full disk
        raise OutputError(f"cannot write to {path.parent}: {error}") from None


def read_state(path: Path) -> dict[str, Any]:
    """The state of a training that `fit` kept in `path`: `model`, `optimizer` and `epoch`.

    Raises `CheckpointError` where the file is damaged.
    """
    with path.open("rb") as file:
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
            return {key: state[key] for key in ("model", "optimizer", "epoch")}
        except Exception:  # noqa: BLE001  torch has many ways to say so
            raise CheckpointError(
                f"{path} is damaged; delete it, or start anew with --force"
            ) from None


def _load_state(path: Path, model: nn.Module, optimizer: Optimizer) -> int:
    if not path.exists():
        return 0
    state = read_state(path)
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return int(state["epoch"])
    except Exception:  # noqa: BLE001  whatever the file holds is given to torch
        raise CheckpointError(f"{path} is of another training; delete it to start anew") from None
