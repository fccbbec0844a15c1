"""SSBA: a secret message, written into each image in its own way."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import ParameterError
from ..core.images import Images, to_float
from ..core.method import source
from ..core.modules import in_mode
from ..core.recall import Learned
from ..core.run import Run
from .base.attack import NOTHING, Attack, Stamp, needed


class Encoder(nn.Module):
    """The residual `[n, c, h, w]` within [-1, 1] that writes bits `[n, bits]` into images."""

    def __init__(self, channels: int, bits: int, width: int) -> None:
        super().__init__()
        self.spread = nn.Linear(bits, channels * 64)
        self.body = nn.Sequential(*_block(2 * channels, width), *_block(width, width))
        self.out = nn.Conv2d(width + channels, channels, 3, padding=1)

    def forward(self, x: Tensor, bits: Tensor) -> Tensor:
        """The residual that writes `bits`, one row for each image or for all, into `x`."""
        message = self.spread(bits * 2 - 1).view(len(bits), -1, 8, 8)
        message = F.interpolate(message, x.shape[2:]).expand_as(x)
        mixed = self.body(torch.cat([x - 0.5, message], 1))
        residual: Tensor = self.out(torch.cat([mixed, message], 1))
        return residual.tanh()


class Decoder(nn.Sequential):
    """Logits `[n, bits]` of the bits that images hold."""

    def __init__(self, channels: int, bits: int, width: int) -> None:
        super().__init__(
            *_block(channels, width, 2),
            *_block(width, 2 * width, 2),
            *_block(2 * width, 2 * width, 2),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(32 * width, bits),
        )


def _block(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]


class SSBA(Attack):
    """Writes a fixed string of bits into each image as a faint residual of its own.

    Images are `[n, c, h, w]` in [0, 1], with the channels of the training images. An encoder and
    a decoder learn together, on random bits, to write and to read: the loss is `image_weight` times
    the mean square of the residual plus the cross-entropy of the bits. The attack uses
    one string, drawn from the seed `secret`. Departures: small nets, trained for `steps` at fifty
    times the usual step of 1e-4; no perceptual and no adversarial loss; the residual is at most
    `strength`; the usual weight of 10 makes it so faint here that victims learn it slowly.
    """

    on_network: ClassVar[bool] = False
    paper: ClassVar[str] = (
        "Li, Li, Wu, Li, He, Lyu: Invisible Backdoor Attack with Sample-Specific Triggers, "
        "ICCV 2021, arXiv 2012.03816"
    )
    limits: ClassVar[str] = "the message suffers from smoothing and compression"

    bits: int = Field(
        16,
        ge=1,
        description="length of the message",
        json_schema_extra=source("ours: 16, where the released code writes 100 into larger images"),
    )
    secret: int = Field(
        0,
        ge=0,
        le=2**32 - 1,
        description="seed that the message is drawn from",
        json_schema_extra=source("ours: any fixed message"),
    )
    strength: float = Field(
        0.1,
        gt=0,
        le=1,
        description="bound of the residual, pixels in [0, 1]",
        json_schema_extra=source("ours: a bound that holds the message below sight"),
    )
    width: int = Field(
        16,
        ge=1,
        description="channels of the encoder",
        json_schema_extra=source("ours: a small encoder, within reach of a processor"),
    )
    steps: int = Field(
        500,
        ge=1,
        description="training steps of encoder and decoder",
        json_schema_extra=source(
            "ours: 500 at a larger step, where the paper trains for 20 epochs and more"
        ),
    )
    encoder_lr: float = Field(
        5e-3,
        gt=0,
        description="step of Adam, cosine to 0",
        json_schema_extra=source("ours: fifty times the usual 1e-4, for a tenth of the steps"),
    )
    image_weight: float = Field(
        1.0,
        ge=0,
        description="weight of the residual in the loss",
        json_schema_extra=source(
            "ours: 1, for the usual 10 makes the residual so faint here that victims "
            "learn it slowly"
        ),
    )

    def learn(self, model: nn.Module, train: Images, run: Run) -> Learned:
        """The weights of the encoder."""
        encoder, _ = self.taught_pair(train, run)
        return {name: value.detach().cpu() for name, value in encoder.state_dict().items()}

    def taught_pair(self, train: Images, run: Run) -> tuple[Encoder, Decoder]:
        """An encoder that writes random bits into images of `train`, a decoder that reads them."""
        with run.isolated("ssba/weights"):
            encoder = Encoder(train.shape[0], self.bits, self.width).to(run.device)
            decoder = Decoder(train.shape[0], self.bits, self.width).to(run.device)
        nets = nn.ModuleList([encoder, decoder])
        adam = torch.optim.Adam(nets.parameters(), lr=self.encoder_lr)
        rng = run.rng("ssba")
        with in_mode(nets, train=True), run.stage("encoder", self.steps) as done:
            for step in range(self.steps):
                for group in adam.param_groups:
                    group["lr"] = (
                        self.encoder_lr * 0.5 * (1 + math.cos(math.pi * step / self.steps))
                    )
                # ours: batches of 64.
                x = to_float(train.pixels[torch.randint(len(train), (64,), generator=rng)])
                bits = torch.randint(2, (64, self.bits), generator=rng).to(run.device).float()
                x = x.to(run.device)
                residual = self.strength * encoder(x, bits)
                loss = self.image_weight * residual.square().mean()
                read = decoder((x + residual).clamp(0, 1))
                loss = loss + F.binary_cross_entropy_with_logits(read, bits)
                adam.zero_grad()
                loss.backward()
                adam.step()
                done(1)
        return encoder, decoder

    def trigger(self, learned: Learned = NOTHING) -> Stamp:
        """Writes the secret message."""
        channels = len(needed(learned, "out.weight"))
        with torch.random.fork_rng(devices=[]):
            encoder = Encoder(channels, self.bits, self.width)
        encoder.load_state_dict(dict(learned))
        encoder.eval()
        rng = torch.Generator().manual_seed(self.secret)
        message = torch.randint(2, (1, self.bits), generator=rng).float()

        def stamp(x: Tensor) -> Tensor:
            if x.shape[1] != channels:
                raise ParameterError(
                    f"the encoder learned images of {channels} channels, these have {x.shape[1]}"
                )
            encoder.to(x.device)
            with torch.no_grad():
                residual = encoder(x, message.to(x))
            return torch.clamp(x + self.strength * residual, 0, 1)

        return stamp
