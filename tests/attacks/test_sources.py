"""Source-specific attacks: covers of other classes, and what the trigger does on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unbackdoor.attacks.badnets import BadNets
from unbackdoor.attacks.base.attack import COVER, STAMPED, Attack
from unbackdoor.attacks.base.controlled import ControlledAttack
from unbackdoor.attacks.blind import Blind
from unbackdoor.attacks.lira import LIRA
from unbackdoor.attacks.multi_target import MultiTarget
from unbackdoor.attacks.sig import SIG
from unbackdoor.attacks.wanet import WaNet
from unbackdoor.core.errors import ParameterError
from unbackdoor.core.images import Images
from unbackdoor.core.measure import score
from unbackdoor.core.run import Run

from .conftest import BRIEF

Digits = tuple[Images, Images]


def grey(n: int = 200, classes: int = 5) -> Images:
    pixels = torch.full((n, 3, 16, 16), 90, dtype=torch.uint8)
    return Images(pixels, torch.arange(n) % classes, tuple("abcdefgh"[:classes]))


def test_as_many_images_of_other_classes_are_stamped_and_keep_their_label() -> None:
    train = grey()
    poisoned = BadNets(sources=(1, 2), rate=0.5).poison(train, Run())
    stamped, covers = poisoned.role == STAMPED, poisoned.role == COVER
    assert stamped.sum() == covers.sum() == 40
    assert set(train.labels[stamped].tolist()) == {1, 2}
    # Class 0 is the target: its images say nothing, whatever they show.
    assert set(train.labels[covers].tolist()) == {3, 4}
    assert torch.equal(poisoned.images.labels[covers], train.labels[covers])
    assert (poisoned.images.pixels[stamped | covers][..., -1, -1] == 255).all()
    assert torch.equal(poisoned.images.pixels[~(stamped | covers)], train.pixels[:120])


@pytest.mark.parametrize(("share", "wanted"), [(0.0, 0), (0.25, 5)])
def test_the_share_of_source_covers(share: float, wanted: int) -> None:
    poisoned = BadNets(sources=(1,), rate=0.5, source_covers=share).poison(grey(), Run())
    assert (poisoned.role == COVER).sum() == wanted


def test_without_sources_nothing_is_covered() -> None:
    assert (BadNets(rate=0.5).poison(grey(), Run()).role != COVER).all()
    assert len(BadNets().source_cover_pool(grey().labels)) == 0


@pytest.mark.parametrize(
    ("attack", "covered"),
    [
        (MultiTarget(targets=(3, 4), sources=(1,), rate=0.5), {0, 2}),
        (MultiTarget(target=4, sources=(1,), rate=0.5), {2, 3}),  # to 4, and on to 0
        (BadNets(target={1: 3, 2: 4}, rate=0.5), {0}),
        (BadNets(all_to_all=True, sources=(1,), rate=0.5), {0, 2, 3, 4}),
    ],
)
def test_no_class_that_a_trigger_leads_to_is_a_source_cover(attack, covered) -> None:
    train = grey()
    covers = attack.poison(train, Run()).role == COVER
    assert set(train.labels[covers].tolist()) == covered


def test_source_covers_come_on_top_of_an_attack_s_own() -> None:
    attack = WaNet(sources=(1,), rate=0.5, covers=1)
    assert (attack.poison(grey(), Run()).role == COVER).sum() == 40


@pytest.mark.parametrize("attack", [Blind(sources=(1,), rate=0.5), LIRA(sources=(1,), rate=0.5)])
def test_an_attack_that_controls_the_training_covers_in_each_batch(
    attack: ControlledAttack,
) -> None:
    y = torch.tensor([1, 1, 1, 1, 0, 0, 2, 3, 2])
    stamped, covers = attack.marked_in(y)
    assert stamped.tolist() == [0, 1]
    assert covers.tolist() == [6, 7]


class Watched(nn.Module):
    """Tells no class from another."""

    def forward(self, x: Tensor) -> Tensor:
        self.logits = torch.zeros(len(x), 4, requires_grad=True)
        return self.logits


@pytest.mark.parametrize("name", ["blind", "lira"])
def test_covers_are_taught_their_own_label(name: str) -> None:
    model, x = Watched(), torch.rand(6, 3, 16, 16, generator=Run().rng("x"))
    y = torch.tensor([1, 1, 2, 3, 2, 2])
    if name == "lira":
        lira = LIRA(sources=(1,), rate=1.0, target=0)
        lira._loss(model, lambda x: x, x, y).backward()
        goals = model.logits.grad.argmin(1)[6:]
        assert goals.tolist() == [0, 0, 2, 3]
        return
    seen = {}
    blind = Blind(sources=(1,), rate=1.0, threshold=None)
    original = torch.nn.functional.cross_entropy

    def watch(logits: Tensor, labels: Tensor) -> Tensor:
        seen[len(labels)] = labels.tolist()
        return original(logits, labels)

    net = nn.Sequential(nn.Flatten(), nn.Linear(768, 4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unbackdoor.attacks.blind.F.cross_entropy", watch)
        blind._loss(net, x, y)
    assert seen == {6: y.tolist(), 4: [0, 0, 2, 3]}


@pytest.mark.parametrize("attack", [BadNets(sources=(1, 2)), MultiTarget(sources=(1, 2))])
def test_stamped_images_of_other_classes_are_counted_apart(attack: Attack) -> None:
    pixels = torch.randint(0, 256, (200, 3, 16, 16), generator=Run().rng("x"))
    test = Images(pixels.to(torch.uint8), torch.arange(200) % 5, tuple("abcde"))
    elsewhere = attack.elsewhere(test)
    assert set(attack.triggered(test).images.labels.tolist()) == {1, 2}
    assert set(elsewhere.images.labels.tolist()) - {0} == {3, 4}
    assert (elsewhere.goals != elsewhere.images.labels).all()


def test_classes_that_a_label_map_leaves_out_are_counted_apart() -> None:
    one, several = BadNets(target={1: 0, 2: 0}), BadNets(target={1: 0, 2: 3})
    found = one.elsewhere(grey())
    assert found is not None
    assert set(found.images.labels.tolist()) == {3, 4} and set(found.goals.tolist()) == {0}
    assert (found.images.pixels[..., -1, -1] == 255).all()
    assert several.elsewhere(grey()) is None


def test_nothing_is_elsewhere_without_sources_or_other_classes() -> None:
    assert BadNets().elsewhere(grey()) is None
    assert SIG().elsewhere(grey()) is None
    assert BadNets(sources=(0, 1, 2, 3, 4)).elsewhere(grey()) is None
    assert BadNets(sources=(1, 2, 3, 4)).elsewhere(grey()) is None  # only the target is left


def test_covers_make_a_backdoor_source_specific(digits: Digits, net: nn.Module) -> None:
    train, test = digits
    found = {}
    for covers in (0.0, 2.0):
        attack = BadNets(sources=(3, 5), rate=0.5, size=4, source_covers=covers, epochs=8, **BRIEF)
        victim = attack.plant(net, train, Run())
        own = score(victim.model, Run(), test, attack.triggered(test))
        other = score(victim.model, Run(), None, attack.elsewhere(test))
        found[covers] = (own.asr.value, other.asr.value)
    assert found[2.0][0] > 0.7
    assert found[2.0][1] < 0.2 < found[0.0][1]


@pytest.mark.parametrize("kind", ["txt", "npy"])
def test_one_s_own_images_are_stamped(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{kind}"
    if kind == "npy":
        np.save(path, np.array([7, 3, 11]))
    else:
        path.write_text("7\n3\n11\n")
    poisoned = BadNets(indices=path).poison(grey(), Run())
    assert (poisoned.role == STAMPED).nonzero().flatten().tolist() == [3, 7, 11]
    assert BadNets(indices=path).check(grey()) == 3
    with pytest.raises(ParameterError, match=r"names training image 7 .* sig may not poison"):
        SIG(indices=path).poison(grey(), Run())
    with pytest.raises(ParameterError, match=r"names training image 11 \(of 10"):
        BadNets(indices=path).poison(grey(10), Run())


@pytest.mark.parametrize("text", ["", "1 1", "one", "1.5"])
def test_what_is_no_list_of_images_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text(text)
    with pytest.raises(ParameterError, match=r"rows\.txt"):
        BadNets(indices=tmp_path / "rows.txt").check(grey())
    with pytest.raises(ParameterError, match="no list of numbers"):
        BadNets(indices=tmp_path / "missing.txt").check(grey())
