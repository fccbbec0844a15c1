"""Self-distillation: a model learns on clean images to answer as it did."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .modules import in_mode


class Distillation:
    """An objective: the divergence of the model's answers from those of `teacher` on the images.

    temperature^2 KL(teacher / temperature || model / temperature), a mean over images (Hinton,
    Vinyals, Dean 2015, arXiv 1503.02531). The teacher is a copy of the model as given, in eval
    mode. Labels are not used. A teacher's answer is kept for as long as the same batch is asked
    about again, as sharpness-aware steps do. Of the last batch,
    `unsettled` is the share, a scalar, that the model gave another class than its teacher when it
    was first asked, and `turned` when it was last asked.
    """

    def __init__(self, teacher: nn.Module, temperature: float) -> None:
        self.teacher, self.temperature = copy.deepcopy(teacher), temperature
        self.asked: Tensor | None = None
        self.wanted = self.unsettled = self.turned = torch.empty(0)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The loss, a scalar."""
        first = self.asked is not x
        if first:
            with torch.no_grad(), in_mode(self.teacher, train=False):
                self.asked, self.wanted = x, self._told(self.teacher, x)
        found = self._told(model, x)
        with torch.no_grad():
            self.turned = (found.argmax(1) != self.wanted.argmax(1)).float().mean()
        self.unsettled = self.turned if first else self.unsettled
        divergence = F.kl_div(found, self.wanted, reduction="batchmean", log_target=True)
        return divergence * self.temperature**2

    def _told(self, model: nn.Module, x: Tensor) -> Tensor:
        return F.log_softmax(model(x).float() / self.temperature, dim=1)
