"""Borrowing a module: whoever works on a model leaves it as it was found."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils.hooks import RemovableHandle

from .errors import ModelError


@contextmanager
def in_mode(model: nn.Module, *, train: bool) -> Iterator[None]:
    """Every module of `model` is in train or eval mode inside, and in the mode it had after."""
    before = [(module, module.training) for module in model.modules()]
    model.train(train)
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter of `model` asks for a gradient inside; each asks as before after."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in before:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, wanted in before:
            parameter.requires_grad_(wanted)


def device_of(model: nn.Module) -> torch.device:
    """Where the first parameter or buffer of `model` lives; the CPU if it has none."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def exact(x: Tensor) -> Tensor:
    """`x` in float64; on the CPU where its device has none, as Apple's MPS."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def pass_with(handles: Sequence[RemovableHandle], model: nn.Module, x: Tensor) -> None:
    """Shows `model` the images `x` in eval mode, and takes the hooks of these `handles` off."""
    try:
        with in_mode(model, train=False), torch.no_grad():
            model(x.to(device_of(model)))
    finally:
        for handle in handles:
            handle.remove()


def called(model: nn.Module, x: Tensor) -> tuple[str, ...]:
    """The paths of the modules that a pass on `x` in eval mode calls, in the order they end."""
    found: dict[str, None] = {}
    handles = [
        module.register_forward_hook(lambda *_, name=name: found.setdefault(name))
        for name, module in model.named_modules()
    ]
    pass_with(handles, model, x)
    return tuple(found)


PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrapped(model: nn.Module) -> nn.Module:
    """`model` without what wraps it for speed: data parallelism, torch.compile.

    Raises `ModelError` for what is no module.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"the model must be a torch.nn.Module, got a {type(model).__name__}; load_model reads "
            "files"
        )
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, PARALLEL):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def copied(model: nn.Module) -> nn.Module:
    """A copy of `model`; raises `ModelError` for one that cannot be copied."""
    try:
        return copy.deepcopy(model)
    except Exception as error:  # noqa: BLE001 - a network may be anyone's code
        reason = str(error).partition("\n")[0][:200]
        raise ModelError(
            f"{type(model).__name__} cannot be copied: {reason}. A model that keeps tensors of its "
            "last pass must let go of them first"
        ) from None


def with_gradient(outputs: Tensor) -> Tensor:
    """`outputs`; raises `ModelError` where no gradient leads back from them."""
    if not outputs.requires_grad:
        raise ModelError(
            "no gradient leads back through the model: its forward runs under torch.no_grad, or "
            "detaches what it gives"
        )
    return outputs


def same_weights(model: nn.Module, other: nn.Module) -> bool:
    """Whether two models hold the same tensors."""
    one, two = model.state_dict(), other.state_dict()
    return one.keys() == two.keys() and all(
        torch.equal(one[key].cpu(), two[key].cpu()) for key in one
    )


@contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """Passes in train mode inside leave the running statistics of `model`'s norms as they are."""
    keepers = [
        module
        for module in model.modules()
        if isinstance(module, (_BatchNorm, _InstanceNorm)) and module.track_running_stats
    ]
    for module in keepers:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in keepers:
            module.track_running_stats = True


def batch_statistics(model: nn.Module) -> nn.Module:
    """A copy of `model` whose batch norms use the statistics of each batch, in eval mode too.

    They keep none, so none drift.
    """
    own = copied(model)
    for module in own.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean = module.running_var = None
    return own


@torch.no_grad()
def lay_out_(model: nn.Module, layout: torch.memory_format) -> None:
    """Lays the kernels of 2-D convolutions out in memory in place: their values stay."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=layout)


def fast_layout(model: nn.Module) -> torch.memory_format:
    """The memory format that `model` trains fastest in: channels last, where that is safe.

    oneDNN writes past its workspace in the weight gradients of strided 1x1 convolutions of fewer
    than 16 input channels in channels-last (oneDNN issue 6035), which ends in a crash.
    """
    unsafe = any(
        isinstance(module, nn.Conv2d)
        and set(module.kernel_size) == {1}
        and max(module.stride) > 1
        and module.in_channels // module.groups < 16
        for module in model.modules()
    )
    return torch.contiguous_format if unsafe else torch.channels_last
