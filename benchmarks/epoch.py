"""One epoch of PreActResNet18 here against the plain way, in one run.

    python benchmarks/epoch.py --quick
    python benchmarks/epoch.py --data ../shared/data/cifar10-train.parquet \\
        --test ../shared/data/cifar10-test.parquet --epochs 5 --json

The plain way: float32, a DataLoader that crops, mirrors and normalises with torchvision's
transforms, image by image. Both train the same network from the same weights with the same
batches a step, optimizer and schedule; they take turns, an epoch each, so that neighbours on the
machine slow both. Without `--data` the images are scikit-learn's digits.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from unbackdoor.core.images import Images, to_float
from unbackdoor.core.measure import accuracy
from unbackdoor.core.run import Run
from unbackdoor.core.spec import Spec
from unbackdoor.data import open_images
from unbackdoor.models import Normalized, create
from unbackdoor.training.fit import fit

BATCH, LR, MOMENTUM, DECAY = 128, 0.1, 0.9, 5e-4


class EpochOverError(Exception):
    """Stops `fit` after an epoch; it goes on from the state that it left."""


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's data sets give them: a PIL picture, transformed."""

    def __init__(self, images: Images, transform: transforms.Compose) -> None:
        self.arrays = images.pixels.permute(0, 2, 3, 1).squeeze(-1).contiguous().numpy()
        self.labels = images.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.arrays[index])), self.labels[index]


@dataclass
class Plain:
    """The plain way, an epoch at a time."""

    model: Normalized
    train: Images
    epochs: int
    flip: bool
    workers: int
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        steps: list[Any] = [transforms.RandomCrop(self.train.shape[1:], padding=4)]
        steps += [transforms.RandomHorizontalFlip()] if self.flip else []
        spec = self.model.spec
        steps += [transforms.ToTensor(), transforms.Normalize(spec.mean, spec.std)]
        self.loader = DataLoader(
            Pictures(self.train, transforms.Compose(steps)),
            batch_size=BATCH,
            shuffle=True,
            num_workers=self.workers,
            persistent_workers=bool(self.workers),
        )
        net = self.model.net
        self.sgd = torch.optim.SGD(net.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
        total = self.epochs * len(self.loader)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.sgd, total)

    def epoch(self) -> None:
        """One more epoch."""
        start = time.perf_counter()
        net = self.model.net.train()
        for x, y in self.loader:
            self.sgd.zero_grad()
            F.cross_entropy(net(x), y).backward()
            self.sgd.step()
            self.schedule.step()
        self.seconds.append(time.perf_counter() - start)


@dataclass
class Ours:
    """`fit`, an epoch at a time: stopped after each, and gone on with."""

    model: nn.Module
    train: Images
    epochs: int
    flip: bool
    state: Path
    precision: str = ""
    seconds: list[float] = field(default_factory=list)

    def epoch(self) -> None:
        """One more epoch."""
        per_epoch = -(-len(self.train) // BATCH)
        wanted = (len(self.seconds) + 1) * per_epoch
        began: list[float] = []

        def watch(stage: str, done: int, total: int) -> None:
            began.append(time.perf_counter())
            # The state is written before the first step of the next epoch.
            if done > wanted:
                raise EpochOverError

        run = Run(progress=watch)
        self.precision = str(run.dtype).removeprefix("torch.")
        settings = {"lr": LR, "batch": BATCH, "momentum": MOMENTUM, "weight_decay": DECAY}
        with contextlib.suppress(EpochOverError):
            fit(
                self.model, self.train, run,
                epochs=self.epochs, flip=self.flip, resume=self.state, **settings,
            )  # fmt: skip
        # The first report comes before any step, the others after one each.
        self.seconds.append(began[per_epoch] - began[0])


def network(train: Images, width: int) -> Normalized:
    """PreActResNet18 with fresh weights for `train`."""
    x = to_float(train.pixels[:5000])
    mean, std = (tuple(value.tolist()) for value in (x.mean((0, 2, 3)), x.std((0, 2, 3))))
    options = {"width": width, "in_channels": train.shape[0]}
    return create(Spec("preact_resnet18", train.classes, mean, std, options))


def compare(train: Images, test: Images, given: argparse.Namespace) -> dict[str, Any]:
    """Both ways, in turn; seconds an epoch, accuracy after all of them, and how many times."""
    model, flip = network(train, given.width), train.shape[0] == 3
    plain = Plain(copy.deepcopy(model), train, given.epochs, flip, given.workers)
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(model, train, given.epochs, flip, Path(folder) / "state.pt")
        for _ in range(given.epochs):
            ours.epoch()
            plain.epoch()
    run = Run(precision="fp32")
    sides = {"here": ours, "plain": plain}
    return {
        "images": len(train),
        "width": given.width,
        "epochs": given.epochs,
        "batch": BATCH,
        "workers": given.workers,
        "threads": torch.get_num_threads(),
        "precision": ours.precision,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "seconds": {name: [round(s, 2) for s in side.seconds] for name, side in sides.items()},
        "accuracy": {
            name: accuracy(side.model.eval(), test, run).as_json() for name, side in sides.items()
        },
        "times_faster": round(
            statistics.median(plain.seconds) / statistics.median(ours.seconds), 2
        ),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Prints what `compare` finds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", metavar="SRC", help="training images; the digits if not given")
    parser.add_argument("--test", metavar="SRC", help="test images")
    parser.add_argument("--images", type=int, metavar="N", help="only the first N to train on")
    parser.add_argument("--width", type=int, default=64, help="channels of the first stage")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="of the DataLoader")
    parser.add_argument("--quick", action="store_true", help="width 16 and 3 epochs of the digits")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(argv)
    if given.quick:
        given.data, given.width, given.epochs = None, 16, 3
    if given.data and not given.test:
        parser.error("--data needs --test")
    channels = None if given.data else 1
    train = open_images(given.data or "digits:train", channels=channels)[: given.images]
    test = open_images(given.test if given.data else "digits:test", channels=channels)
    found = compare(train, test, given)
    if given.json:
        print(json.dumps(found))
        return
    print(f"{found['images']} images, width {found['width']}, {found['threads']} threads")
    for name in ("plain", "here"):
        seconds = statistics.median(found["seconds"][name])
        print(
            f"{name:6} {seconds:8.1f} s an epoch, accuracy {found['accuracy'][name]['value']:.4f}"
        )
    print(f"{found['times_faster']} times faster in {found['precision']}")


if __name__ == "__main__":
    main()
