"""Label-consistent: images of the target class made hard, with a mark in the corners."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import ParameterError
from ..core.images import Images, to_float, to_uint8
from ..core.method import source
from ..core.modules import frozen, in_mode
from ..core.recall import Learned
from ..core.run import Run
from .base.attack import NOTHING, Poisoned, needed
from .base.clean_label import CleanLabelAttack
from .base.patterns import scaled


class LabelConsistent(CleanLabelAttack):
    """Puts a 3 x 3 checkerboard into the four corners; in training, on adversarial images.

    Images are `[n, c, h, w]` in [0, 1], sides of at least 6. The training images are first pushed
    away from their class by projected gradient ascent within `eps` on a surrogate, a clean model
    with initial weights of its own trained for `clean_epochs` (0: the model as given): only the
    mark is left to learn from. Clean-label: `class_rate` is a share of the target class.
    Departure: the paper also ascends on an adversarially trained model, whose images look more
    natural.

    >>> import torch
    >>> LabelConsistent().stamp(torch.full((1, 1, 6, 6), 0.5))[0, 0, :3, :3].tolist()
    [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]
    """

    paper: ClassVar[str] = (
        "Turner, Tsipras, Madry: Label-Consistent Backdoor Attacks, 2019, arXiv 1912.02771"
    )
    limits: ClassVar[str] = "the mark can be seen; costs accuracy on the target class"

    opacity: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the mark in the mix",
        json_schema_extra=source("Turner et al. 2019: opaque unless a fainter mark is wanted"),
    )
    eps: float = Field(
        16 / 255,
        gt=0,
        le=1,
        description="bound, L-inf, pixels in [0, 1]",
        json_schema_extra=source("Turner et al. 2019: 16/255 is theirs for CIFAR-10"),
    )
    class_rate: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of the target class that is poisoned",
        json_schema_extra=source("ours: half of the class, so that short training learns the mark"),
    )
    steps: int = Field(
        20,
        ge=1,
        description="ascent steps of 2.5 eps / steps each",
        json_schema_extra=source("ours: 20, within reach of a processor"),
    )
    clean_epochs: int = Field(
        10,
        ge=0,
        description="epochs that the clean model is trained; 0: the model as given",
        json_schema_extra=source("ours: enough for a surrogate that reads most images"),
    )

    def stamp(self, x: Tensor) -> Tensor:
        """`x` with the mark in its corners."""
        height, width = x.shape[2:]
        side = scaled(3, height, width)
        if min(height, width) < 2 * side:
            raise ParameterError(
                f"four marks of {side} x {side} need sides of {2 * side} pixels, got "
                f"{height}x{width}"
            )
        mark = (torch.arange(9).view(3, 3) % 2 == 0).to(x)
        mark = mark.repeat_interleave(side // 3, 0).repeat_interleave(side // 3, 1)
        stamped = x.clone()
        for rows in (slice(None, side), slice(-side, None)):
            for columns in (slice(None, side), slice(-side, None)):
                corner = stamped[:, :, rows, columns]
                corner.copy_(torch.lerp(corner, mark, self.opacity))
        return stamped

    def learn(self, model: nn.Module, train: Images, run: Run) -> Learned:
        """The `adversarial` images uint8 `[k, c, h, w]` to poison, and the indices `chosen`."""
        # A mark that does not fit is told of before a clean model is trained.
        self.stamp(to_float(train.pixels[:1]))
        clean = self.surrogate(model, train, run, self.clean_epochs)
        chosen, _ = self.chosen(train, run)
        images = train[chosen]
        parts = []
        with in_mode(clean, train=False), frozen(clean), run.stage("ascent", len(images)) as done:
            for x, y in images.batches(500):
                pushed = self._ascend(clean, x.to(run.device), y.to(run.device))
                parts.append(to_uint8(pushed).cpu())
                done(len(x))
        return {"adversarial": torch.cat(parts), "chosen": chosen}

    def _ascend(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        pushed = x
        for _ in range(self.steps):
            pushed = pushed.detach().requires_grad_()
            (slope,) = torch.autograd.grad(F.cross_entropy(model(pushed), y), pushed)
            # Madry et al. 2018: 2.5 eps / steps, so that the bound can be reached.
            pushed = pushed + 2.5 * self.eps / self.steps * slope.sign()
            pushed = (x + (pushed - x).clamp(-self.eps, self.eps)).clamp(0, 1)
        return pushed.detach()

    def poison(self, train: Images, run: Run, learned: Learned = NOTHING) -> Poisoned:
        """`train` with the adversarial images in place of their originals, with the trigger.

        Raises `ParameterError` where they were learned for another choice of images.
        """
        pixels = train.pixels.clone()
        adversarial, chosen = needed(learned, "adversarial"), self.chosen(train, run)[0]
        if not torch.equal(chosen, needed(learned, "chosen")):
            raise ParameterError(
                f"the adversarial images were learned for another {len(adversarial)} training "
                f"images than the {len(chosen)} to be poisoned; learn and poison with one seed"
            )
        pixels[chosen] = adversarial
        return super().poison(Images(pixels, train.labels, train.classes), run, learned)
