"""Measures of the bench beside ACC, ASR and RA. They see the trigger, so no defense gets them.

* limit: ASR and RA of a clean model on the same triggered images. No repair need do better.
* visibility: PSNR, SSIM and L-inf between some triggered images and the same without the trigger.
* re-activation (Min et al., NeurIPS 2024, 2410.09838): ASR after fine-tuning on a few triggered
  images with the attacker's label. A backdoor that is still in the weights comes back faster than a
  clean model learns it.
* existence (Zhu et al., NeurIPS 2024, 2405.16134): how like the backdoored model's the features of
  triggered images still are, by linear CKA, in the channels that the trigger changes most.
* coverage: the share of the trigger's channels among those that a defense pruned.
* agreement: how often the repaired model says what the clean model says of test images, and of
  triggered ones what that says of the same without the trigger. For data with few labels.

Which channels are the trigger's is told by TAC, the trigger-activated change (Zheng et al., ECCV
2022, 2208.03111): the mean L2 distance between a channel's maps of an image with and without it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..attacks.base.visibility import visibility
from ..core.errors import ModelError, OutputError, UnbackdoorWarning
from ..core.images import Images, Triggered, to_float
from ..core.measure import Rate, attack_rates, matches, predictions
from ..core.modules import copied, in_mode
from ..core.run import Run
from ..network.channels import feature_maps
from ..network.layers import Layer, find_layers
from ..training.fit import fit
from .store import Record

TRIGGERED, CLEAN, EPOCHS, LR, BATCH = 50, 1000, 5, 0.01, 128
"""Re-activation: images with and without the trigger, and how the model is fine-tuned on them.

At most half of the triggered test images are taken; those taken are not counted in the ASR. Weight
decay is 5e-4, images are cropped at random, and mirrored where the victim's were in training.
"""
SEEN = 500
"""Triggered images that TAC, CKA and visibility are measured on."""
SHARES = (0.05, 0.1, 0.2)
"""Existence: of the channels of each layer, by TAC; at least one channel."""
COVERED = 64
"""Coverage: one channel in so many of each layer is the trigger's, by TAC; at least one."""

Found = TypeVar("Found")


@dataclass(frozen=True, eq=False)
class Probe:
    """A backdoored `model` on `run.device` and its trigger, to hold other models against.

    `stamped` are its triggered test images, `train` clean images; `before` gives the images of
    some of the triggered ones, by their places int64 `[n]`, as they were without the trigger.
    `clean` is the clean model, which only `agreement` needs of a repaired model.
    """

    model: nn.Module
    stamped: Triggered
    before: Callable[[Tensor], Images]
    train: Images
    test: Images
    flip: bool
    run: Run
    clean: nn.Module | None = None

    def of_clean(self, clean: nn.Module, asked: Sequence[str]) -> Record:
        """What is `asked` for of the clean model, as JSON values; None where it cannot be told."""
        return {name: _told(name, partial(self._of, clean, name)) for name in asked}

    def of_repaired(
        self, repaired: nn.Module | None, layers: Sequence[Record], asked: Sequence[str]
    ) -> Record:
        """The same of a repaired model, and of the `layers` of a cell's record that were pruned.

        `repaired` is None where it is not needed, and where the repair left the model as it came:
        what is measured would be the victim's, so it is none.
        """
        found: Record = {}
        for name in asked:
            if name == "coverage":
                found[name] = _told(name, partial(self.coverage, layers))
            elif repaired is None:
                found[name] = None
            else:
                found[name] = _told(name, partial(self._of, repaired, name))
        return found

    def _of(self, model: nn.Module, name: str) -> Any:
        if name == "limit":
            asr, ra = attack_rates(model, self.stamped, self.run)
            return {"asr": asr.as_json(), "ra": ra.as_json()} if asr.total else None
        if name == "visibility":
            places = self._places
            return visibility(self.before(places), self.stamped.images[places]).as_json()
        if name == "agreement":
            return self.agreement(model)
        if name == "reactivation":
            rate = self.reactivated(model)
            return rate.as_json() if rate.total else None
        return self.likeness(model)

    def reactivated(self, model: nn.Module) -> Rate:
        """ASR of a copy of `model` that was fine-tuned on a few triggered images."""
        run, count = self.run, len(self.stamped.goals)
        order = torch.randperm(count, generator=run.rng("re-activation/triggered"))
        taken, rest = order.tensor_split([min(TRIGGERED, count // 2)])
        some = self.train.sample(CLEAN, run.rng("re-activation/clean"))
        bait = self.stamped.images[taken]
        mixed = Images(
            torch.cat([some.pixels, bait.pixels]),
            torch.cat([some.labels, self.stamped.goals[taken]]),
            some.classes,
        )
        tuned = copied(model).to(run.device).requires_grad_()
        fit(
            *(tuned, mixed, run),
            epochs=EPOCHS,
            lr=LR,
            batch=BATCH,
            flip=self.flip,
            stage="re-activation",
        )
        return attack_rates(
            tuned, Triggered(self.stamped.images[rest], self.stamped.goals[rest]), run
        )[0]

    def agreement(self, model: nn.Module) -> dict[str, Any] | None:
        """Of the test images, and of triggered ones: how many `model` answers as the clean model.

        That sees them without the trigger. None where no clean model is known.
        """
        if self.clean is None:
            return None
        images, count = self.stamped.images, len(self.stamped.goals)
        pairs = {"clean": (self.test, self.test)}
        if count:
            pairs["stamped"] = (images, self.before(torch.arange(count)))
        return {
            kind: matches(
                predictions(model, seen, self.run), predictions(self.clean, plain, self.run)
            ).as_json()
            for kind, (seen, plain) in pairs.items()
        }

    def likeness(self, model: nn.Module) -> float:
        """Linear CKA in [0, 1] between `model` and the backdoored one, on triggered images.

        Averaged over the layers and the `SHARES` of their channels by TAC.
        """
        tops = {
            name: [top(change, max(1, round(share * len(change)))) for share in SHARES]
            for name, change in self.changes.items()
        }
        widest = {name: places[-1] for name, places in tops.items()}
        own, other = (self._maps(each, widest) for each in (self.model, model))
        found = [
            linear_cka(own[name][:, : len(places)], other[name][:, : len(places)])
            for name, all_places in tops.items()
            for places in all_places
        ]
        return sum(found) / len(found)

    def coverage(self, layers: Sequence[Record]) -> dict[str, float] | None:
        """How many of the trigger's channels are among those that were pruned of a cell's `layers`.

        A pruned norm counts for the layer that feeds it. None where no layer lost a channel:
        nothing was pruned, or only features that the classifier sees.
        """
        silenced = {layer["name"]: set(layer["silenced"]) for layer in layers}
        if not any(silenced.values()):
            return None
        lost = {
            layer.name: set().union(
                *(
                    silenced.get(name or "", ())
                    for name in (layer.name, layer.norm, *layer.other_norms)
                )
            )
            for layer in self.layers
        }
        if not any(lost.values()):
            return None
        hits = total = 0
        for layer in self.layers:
            gone = lost[layer.name]
            wanted = top(self.changes[layer.name], max(1, layer.channels // COVERED)).tolist()
            hits, total = hits + len(gone & set(wanted)), total + len(wanted)
        return Rate(hits, total).as_json()

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of the backdoored model."""
        return find_layers(self.model, to_float(self.stamped.images.pixels[:2]))

    @cached_property
    def _places(self) -> Tensor:
        count = len(self.stamped.goals)
        return torch.randperm(count, generator=self.run.rng("trigger's channels"))[:SEEN]

    @cached_property
    def changes(self) -> Mapping[str, Tensor]:
        """TAC of every channel of the backdoored model, float32 `[channels]` by layer name.

        Raises `ModelError` where the trigger changes none: it is no change of pixels.
        """
        stamped, before = self.stamped.images[self._places], self.before(self._places)
        total = {layer.name: torch.zeros(layer.channels) for layer in self.layers}
        with _maps_of(self.model, self.layers) as maps:
            pairs = zip(before.batches(100), stamped.batches(100), strict=True)
            for (x, _), (y, _) in pairs:
                self.model(x.to(self.run.device))
                plain = dict(maps)
                self.model(y.to(self.run.device))
                for name, values in maps.items():
                    change = (values - plain[name]).float().flatten(2).norm(dim=2)
                    total[name] += change.sum(0).cpu()
        if not any(bool(change.any()) for change in total.values()):
            raise ModelError("the trigger changes no channel of the model")
        return {name: change / len(stamped) for name, change in total.items()}

    def _maps(self, model: nn.Module, places: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The maps of the channels at `places`, in that order: float32 `[n, channels, ...]`."""
        stamped = self.stamped.images[self._places]
        parts: dict[str, list[Tensor]] = {name: [] for name in places}
        with _maps_of(model, self.layers) as maps:
            for x, _ in stamped.batches(100):
                model(x.to(self.run.device))
                for name, values in maps.items():
                    parts[name].append(values[:, places[name].to(values.device)].float().cpu())
        return {name: torch.cat(own) for name, own in parts.items()}


def linear_cka(one: Tensor, two: Tensor) -> float:
    """Linear CKA in [0, 1] of features `[n, ...]` and `[n, ...]` of the same n images.

    Kornblith et al., ICML 2019, 1905.00414. 0 where the features of either are constant.
    """
    first, second = (
        (flat := features.flatten(1).double() - features.flatten(1).double().mean(0)) @ flat.T
        for features in (one, two)
    )
    size = float(first.norm() * second.norm())
    return float((first * second).sum()) / size if size else 0.0


@contextmanager
def _maps_of(model: nn.Module, layers: Sequence[Layer]) -> Iterator[dict[str, Tensor]]:
    """`feature_maps` in eval mode and without gradients."""
    with in_mode(model, train=False), torch.no_grad(), feature_maps(model, layers) as maps:
        yield maps


def top(scores: Tensor, count: int) -> Tensor:
    """The places int64 `[count]` of the highest scores, highest first."""
    return scores.argsort(descending=True, stable=True)[:count]


def _told(name: str, work: Callable[[], Found]) -> Found | None:
    """What `work` finds; None, with a warning, where it breaks: the repair is a result anyway."""
    try:
        return work()
    except OutputError:
        raise
    except Exception as error:  # noqa: BLE001  a network may be anyone's code
        text = f"{name} could not be measured: {type(error).__name__}: {error}"
        warnings.warn(text, UnbackdoorWarning, stacklevel=2)
        return None
