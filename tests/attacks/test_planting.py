"""What is said of a victim's training: of relabelled images only, and what binds."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from unbackdoor.attacks.badnets import BadNets
from unbackdoor.attacks.base.attack import STAMPED, Victim
from unbackdoor.attacks.base.planting import (
    lacking,
    learned,
    warn_of_mirrors,
    warn_of_weakness,
)
from unbackdoor.attacks.semantic import Semantic
from unbackdoor.attacks.sig import SIG
from unbackdoor.core.errors import UnbackdoorWarning
from unbackdoor.core.images import Images
from unbackdoor.core.measure import Rate
from unbackdoor.core.run import Run


class Always(nn.Module):
    """Gives every image one class."""

    def __init__(self, label: int) -> None:
        super().__init__()
        self.label = label

    def forward(self, x: Tensor) -> Tensor:
        return torch.eye(4)[self.label].expand(len(x), 4)


class White(nn.Module):
    """Class 0 for images whose last pixel is white, else class 1."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.eye(4)[(x[:, 0, -1, -1] < 0.99).long()]


def grey(n: int = 80) -> Images:
    pixels = torch.full((n, 1, 12, 12), 90, dtype=torch.uint8)
    return Images(pixels, torch.arange(n) % 4, ("a", "b", "c", "d"))


def test_stamped_images_that_had_the_target_s_label_are_no_evidence() -> None:
    attack, train = BadNets(rate=0.5), grey()
    poisoned = attack.poison(train, Run())
    relabelled = int((poisoned.images.labels != train.labels).sum())
    assert 0 < relabelled < int((poisoned.role == STAMPED).sum())
    # Knows its true classes and no trigger: the images of class 0 do not make it look half-learned.
    told = learned(attack, Victim(Always(1), poisoned), train, Run())
    assert told["relabelled"] == Rate(0, relabelled)
    assert learned(attack, Victim(White(), poisoned), train, Run())["relabelled"].value == 1


def test_no_attack_without_relabelled_images_is_said_to_have_learned_them() -> None:
    bright = Semantic(kind="bright", bound=0.1)
    poisoned = bright.poison(grey(), Run())
    assert learned(bright, Victim(Always(0), poisoned), grey(), Run())["relabelled"].total == 60


@pytest.mark.parametrize(("label", "asr"), [(0, 1.0), (2, 0.0)])
def test_a_clean_label_attack_tells_its_asr_on_training_images_of_other_classes(
    label: int, asr: float
) -> None:
    attack, train = SIG(class_rate=0.5, frequency=2), grey()
    told = learned(attack, Victim(Always(label), attack.poison(train, Run())), train, Run())
    assert told.keys() == {"training_asr", "clean"}
    assert (told["training_asr"].value, told["training_asr"].total) == (asr, 60)


@pytest.mark.parametrize(
    ("found", "weak"),
    [
        ({"relabelled": Rate(94, 100), "clean": Rate(99, 100)}, ["relabelled"]),
        ({"relabelled": Rate(95, 100), "clean": Rate(89, 100)}, ["clean"]),
        ({"training_asr": Rate(94, 100), "clean": Rate(90, 100)}, ["training_asr"]),
        ({"training_asr": Rate(95, 100), "clean": Rate(90, 100)}, []),
    ],
)
def test_what_binds(found: dict[str, Rate], weak: list[str]) -> None:
    assert lacking(found) == weak
    for kind in weak:
        called = kind.replace("training_asr", "triggered")
        with pytest.warns(UnbackdoorWarning, match=f"% of its {called} training images"):
            warn_of_weakness(found)


def test_mirrored_traffic_signs_are_warned_about_unless_they_are_asked_for() -> None:
    pixels = torch.zeros(43, 1, 8, 8, dtype=torch.uint8)
    signs = Images(pixels, torch.arange(43), tuple(map(str, range(43))))
    with pytest.warns(UnbackdoorWarning, match="flip=false"):
        warn_of_mirrors(BadNets(), signs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for attack, images in ((BadNets(flip=True), signs), (BadNets(flip=False), signs)):
            warn_of_mirrors(attack, images)
        warn_of_mirrors(BadNets(), grey())
