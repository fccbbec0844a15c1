"""Self-distillation: a model learns to predict on disturbed images what it predicted before."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.modules import in_mode
from .disturbance import FOUR, disturbed


class Distillation:
    """An objective: the divergence of the model's predictions from the targets of `teacher`.

    temperature^2 KL(target || model / temperature), a mean over images (Hinton, Vinyals, Dean
    2015, arXiv 1503.02531). The target is what the teacher, a copy of the model as given, predicts
    in eval mode: its softmax at `temperature`, of which the share `certainty` is given to the
    class it predicts. Labels are not used.

    The teacher is shown the images as they are, the model the last `share` of each batch
    `disturbed` (as a noisy student: Xie et al. 2020, arXiv 1911.04252); that draws from torch's
    global generator, which `fit` isolates. Targets and disturbances are kept for as long as
    the same batch is asked about again, as sharpness-aware steps do; the first time only each
    `glance`-th image of it counts. Of the undisturbed images of the last batch, `unsettled` is the
    share, a scalar, that the model gave another class than its teacher when it was first asked,
    and `turned` when it was last asked.
    """

    def __init__(
        self,
        teacher: nn.Module,
        temperature: float,
        certainty: float = 0.0,
        share: float = 0.0,
        glance: int = 1,
    ) -> None:
        self.teacher, self.temperature = copy.deepcopy(teacher), temperature
        self.certainty, self.share, self.glance = certainty, share, glance
        self.asked: Tensor | None = None
        self.shown = self.targets = self.calm = self.unsettled = self.turned = torch.empty(0)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The loss, a scalar."""
        first = self.asked is not x
        if first:
            self._prepare(x)
        # A norm in train mode needs two images.
        step = self.glance if first and len(x) > self.glance else 1
        targets, calm = self.targets[::step], self.calm[::step]
        told = self._told(model, self.shown[::step])
        with torch.no_grad():
            self.turned = (told.argmax(1) != targets.argmax(1))[calm].float().mean()
        self.unsettled = self.turned if first else self.unsettled
        return F.kl_div(told, targets, reduction="batchmean") * self.temperature**2

    @torch.no_grad()
    def _prepare(self, x: Tensor) -> None:
        with in_mode(self.teacher, train=False):
            soft = self._told(self.teacher, x).exp()
        named = F.one_hot(soft.argmax(1), soft.shape[1]).to(soft)
        self.targets = torch.lerp(soft, named, self.certainty)
        # The calm ones come first: a glance always meets one.
        calm = len(x) - int(self.share * len(x))
        self.asked, self.shown = x, x.clone()
        self.calm = torch.arange(len(x), device=x.device) < calm
        if calm < len(x):
            self.shown[calm:] = disturbed(x[calm:], FOUR)

    def _told(self, model: nn.Module, x: Tensor) -> Tensor:
        return F.log_softmax(model(x).float() / self.temperature, dim=1)
