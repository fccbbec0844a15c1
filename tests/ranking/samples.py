"""A small net and what it is ranked on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unbackdoor.core.run import Run
from unbackdoor.ranking.reverse import Nudge

RUN = Run(precision="fp32")
NUDGE = Nudge(eps=0.3, alpha=0.2, steps=2)


def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()),
            *(nn.Conv2d(6, 9, 3, padding=1, groups=3), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(36, 3)),
        )
        for tensor in (*model[1].parameters(), model[1].running_mean):
            tensor.data.normal_()
        model[7].weight.data.mul_(8)  # far enough apart that images differ
    return model.eval()


def data(n: int, channels: int = 3, size: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(n, channels, size, size, generator=rng)
    signs = torch.randint(0, 2, x.shape, generator=rng).float() * 2 - 1
    return x, torch.arange(n) % 3, signs
