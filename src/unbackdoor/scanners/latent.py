"""The smallest change of the features that sends all images to a class."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ..core.images import Images
from ..core.method import source
from ..core.run import Run
from .base.head import Head, head_of
from .base.scanner import Finding, Scanner, outlying


class Latent(Scanner):
    """For each class, the smallest change of the last features that sends all images there.

    A convex quadratic programme with one constraint for each other class: with weights w and
    features f it is the shortest s with (w_k - w_j) s >= -min over images of (w_k - w_j) f. A class
    that needs an unusually short one is suspect. Takes a second.

    Departures: a low quantile (`quantile`) stands for the minimum over images, so that no single
    odd image decides; biases of the last layer count; a class's own images do not.
    """

    paper: ClassVar[str] = "Iwahana et al. 2025, arXiv 2511.08944"
    limits: ClassVar[str] = (
        "sees the last features only, not whether any change of an image leads there; blind to "
        "backdoors with a target for every class"
    )
    statistic: ClassVar[str] = "1 / length of the change of the features that sends images there"

    quantile: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="share of the images that the change may miss",
        json_schema_extra=source("ours: a few images may hold out"),
    )
    rounds: int = Field(
        500,
        ge=1,
        description="rounds of the solver",
        json_schema_extra=source("ours: enough for the solver to settle"),
    )

    def look(self, model: nn.Module, clean: Images, run: Run) -> Finding:
        """The length of the shortest change for each class."""
        head = head_of(model, clean, run, self.name())
        logits = head.features @ head.weight.T + head.bias
        labels = logits.argmax(1)
        lengths = []
        with run.stage("features", len(head.weight)) as advance:
            for label in range(len(head.weight)):
                lengths.append(self.shortest(head, logits[labels != label], label))
                advance(1)
        values = 1 / torch.stack(lengths).clamp_min(1e-6)
        return Finding(values, outlying(values.log()))

    def shortest(self, head: Head, logits: Tensor, label: int) -> Tensor:
        """The length of the shortest change that sends images with these `logits` to `label`."""
        if not len(logits):
            return torch.tensor(torch.inf)
        others = [other for other in range(len(head.weight)) if other != label]
        rows = head.weight[label] - head.weight[others]
        needed = -(logits[:, [label]] - logits[:, others]).quantile(self.quantile, dim=0)
        return shortest(rows, needed, self.rounds)


def shortest(rows: Tensor, needed: Tensor, rounds: int) -> Tensor:
    """The length of the shortest s with `rows` s >= `needed`.

    By its dual, min over l >= 0 of |rows' l|^2 / 2 - needed' l with s = rows' l, and accelerated
    projected gradient (Beck & Teboulle 2009, FISTA).
    """
    gram, price = (rows @ rows.T).double(), needed.double()
    step = 1 / torch.linalg.matrix_norm(gram, 2).clamp_min(1e-12)
    force = ahead = torch.zeros_like(price)
    pace = 1.0
    for _ in range(rounds):
        moved = (ahead - step * (gram @ ahead - price)).clamp_min(0)
        faster = (1 + (1 + 4 * pace**2) ** 0.5) / 2
        ahead, force = moved + (pace - 1) / faster * (moved - force), moved
        pace = faster
    length: Tensor = (rows.double().T @ force).norm()
    return length.float()
