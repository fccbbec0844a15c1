"""Memory: how much is free, and how much images take on their way through a model."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from .errors import ModelError
from .modules import in_mode
from .run import Run

TABLE = Path("/proc/meminfo")
MINE = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")

SHARE = 0.6
"""Of `bytes_per_image`, what a training step was seen to take: 0.45 to 0.6 in ResNet-18,
MobileNetV2 and ViT-B at 224 x 224."""


def free_bytes(device: torch.device) -> float:
    """The memory of `device` that is free; infinite where the system does not tell.

    On a CPU that is what the system has left, or what the process's control group may still take
    where that is less, as in a container.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return float("inf")
    return min(_system(), _group())


def bytes_per_image(model: nn.Module, x: Tensor, run: Run) -> int:
    """What a training step holds of one image `x` `[1, c, h, w]`: each layer's answer, twice.

    Once for the gradient and once for the gradients themselves. One pass in eval mode.
    """
    with run.autocast():
        return 2 * (sum(_answers(model, x)) + x.numel() * x.element_size())


def rows_that_fit(model: nn.Module, x: Tensor, rows: int) -> int:
    """How many images like `x` `[1, c, h, w]`, at most `rows`, go through `model` at once.

    Without gradients, in half of the memory that is free. In halves of `rows`, so that what else
    runs on the machine seldom changes a bit of the result.
    """
    each = 4 * max(_answers(model, x), default=0)  # a layer's input and answer, and copies
    room = free_bytes(x.device) / 2
    while rows > 1 and rows * each > room:
        rows //= 2
    return rows


def check_step(model: nn.Module, x: Tensor, batch: int, run: Run) -> None:
    """Raises `ModelError` where a training step of `batch` images like `x` does not fit.

    `x` is `[1, c, h, w]`. Better one line now than to be stopped by the system in an hour. What is
    counted is the least: the answers of all layers, and of the weights also gradient and momentum.
    """
    free = free_bytes(run.device)
    if free == float("inf"):
        return
    each = bytes_per_image(model, x, run) * SHARE
    fixed = 4 * sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
    if fixed + batch * each > free:
        fits = int((free - fixed) / each)
        way = (
            f"take a smaller batch (-p batch={max(2, 2 ** (fits.bit_length() - 1))})"
            if fits >= 2
            else "close other programs, or take another machine"
        )
        raise ModelError(
            f"a training step of {batch} images of {x.shape[-2]}x{x.shape[-1]} takes at least "
            f"{_gib(fixed + batch * each)} of memory, and {_gib(free)} are free: {way}"
        )


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"


def _answers(model: nn.Module, x: Tensor) -> list[int]:
    """The bytes of every layer's answer to `x`."""
    sizes: list[int] = []

    def count(_: nn.Module, __: object, y: object) -> None:
        if isinstance(y, Tensor):
            sizes.append(y.numel() * y.element_size())

    leaves = [module for module in model.modules() if not any(module.children())]
    handles = [module.register_forward_hook(count) for module in leaves]
    try:
        with torch.no_grad(), in_mode(model, train=False):
            model(x.clone())
    finally:
        for handle in handles:
            handle.remove()
    return sizes


def _system() -> float:
    try:
        lines = TABLE.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvail"))
    except (OSError, ValueError, StopIteration):
        return float("inf")


def _group() -> float:
    """What the process's control group may still take: of version 2, or of version 1."""
    try:
        lines = [line.split(":", 2) for line in MINE.read_text().splitlines()]
    except OSError:
        return float("inf")
    places = {kinds: path.lstrip("/") for _, kinds, path in lines}
    left = [float("inf")]
    for kind, folder, most, used in (
        ("", GROUPS, "memory.max", "memory.current"),
        ("memory", GROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        # In a container the group's own folder is often mounted as the root.
        for place in (folder / places.get(kind, ""), folder):
            try:
                limit, taken = (place / most).read_text().strip(), (place / used).read_text()
                cached = _cached(place / "memory.stat")
                left.append(float("inf") if limit == "max" else int(limit) - int(taken) + cached)
            except (OSError, ValueError):
                continue
    return max(0.0, min(left))


def _cached(table: Path) -> int:
    """Of the bytes that a control group has taken, those of files that it can give back."""
    lines = [line.split() for line in table.read_text().splitlines()]
    found = {words[0]: int(words[1]) for words in lines if len(words) == 2}
    return found.get("inactive_file", 0)
