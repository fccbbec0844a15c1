"""Attack: who is stamped, what it is called afterwards, and training that can be resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from unbackdoor.attacks.badnets import BadNets
from unbackdoor.attacks.base.attack import CLEAN, COVER, STAMPED, Attack
from unbackdoor.attacks.blind import Blind
from unbackdoor.attacks.input_aware import InputAware
from unbackdoor.attacks.label_consistent import LabelConsistent
from unbackdoor.attacks.lf import LF
from unbackdoor.attacks.lira import LIRA
from unbackdoor.attacks.sig import SIG
from unbackdoor.attacks.trojannn import TrojanNN
from unbackdoor.attacks.wanet import WaNet
from unbackdoor.core.errors import ParameterError, UnbackdoorWarning
from unbackdoor.core.images import Images
from unbackdoor.core.method import build, names
from unbackdoor.core.run import Run

CLASSES = ("a", "b", "c", "d", "e")


@pytest.fixture
def train() -> Images:
    """A hundred images, twenty of each class in turn."""
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 200, (100, 3, 8, 8), dtype=torch.uint8, generator=rng)
    return Images(pixels, torch.arange(100) % 5, CLASSES)


def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)
        )


def of(poisoned_role: Tensor, role: int) -> int:
    return int((poisoned_role == role).sum())


def test_a_tenth_is_stamped_and_sent_to_the_target(train: Images) -> None:
    poisoned = BadNets(target=2).poison(train, Run())
    stamped = poisoned.role == STAMPED
    assert stamped.sum() == 10
    assert (poisoned.images.labels[stamped] == 2).all()
    assert (poisoned.images.pixels[stamped][..., -3:, -3:] == 255).all()
    assert torch.equal(poisoned.images.pixels[~stamped], train.pixels[~stamped])
    assert torch.equal(poisoned.original, train.labels)
    assert of(poisoned.role, CLEAN) == 90


def test_all_to_all_sends_each_label_to_the_next(train: Images) -> None:
    attack = BadNets(all_to_all=True, rate=1.0)
    poisoned = attack.poison(train, Run())
    assert torch.equal(poisoned.images.labels, (train.labels + 1) % 5)
    triggered = attack.triggered(train)
    assert len(triggered.goals) == 100
    assert triggered.goals[4] == 0


def test_one_image_at_least_and_a_count_in_place_of_the_rate(train: Images) -> None:
    assert of(BadNets(rate=1e-6).poison(train, Run()).role, STAMPED) == 1
    assert of(BadNets(count=7).poison(train, Run()).role, STAMPED) == 7


def test_sources_alone_are_stamped_in_training_and_at_test(train: Images) -> None:
    attack = BadNets(sources=(1, 3), rate=0.5)
    poisoned = attack.poison(train, Run())
    assert of(poisoned.role, STAMPED) == 20
    assert set(train.labels[poisoned.role == STAMPED].tolist()) == {1, 3}
    assert set(attack.triggered(train).images.labels.tolist()) == {1, 3}


def test_clean_label_rate_is_a_share_of_the_target_class(train: Images) -> None:
    poisoned = SIG(target=4, class_rate=0.25).poison(train, Run())
    assert of(poisoned.role, STAMPED) == 5
    assert (train.labels[poisoned.role == STAMPED] == 4).all()
    assert torch.equal(poisoned.images.labels, train.labels)


def test_more_than_there_are_is_refused(train: Images) -> None:
    with pytest.raises(ParameterError, match=r"sig is to poison 21 .* only 20"):
        SIG(count=21).poison(train, Run())
    with pytest.raises(ParameterError, match="only 0 may be poisoned"):
        BadNets().poison(train[slice(0, 0)], Run())


@pytest.mark.parametrize("given", [{"all_to_all": True}, {"sources": [1]}])
def test_clean_label_attacks_refuse_other_goals(given: dict[str, object]) -> None:
    with pytest.raises(ParameterError, match="only poisons images of its one target class"):
        build("attack", "sig", given)


def test_a_target_beyond_the_classes_is_refused(train: Images) -> None:
    with pytest.raises(ParameterError, match="source 7 is not one of 5 classes"):
        BadNets(sources=(1, 7)).poison(train, Run())
    for attack in (BadNets(target=5), SIG(target=5)):
        with pytest.raises(ParameterError, match="target 5 is not one of 5 classes"):
            attack.poison(train, Run())


def test_the_seed_decides(train: Images) -> None:
    first, again, other = (WaNet().poison(train, Run(seed=seed)) for seed in (3, 3, 4))
    assert torch.equal(first.images.pixels, again.images.pixels)
    assert torch.equal(first.role, again.role)
    assert not torch.equal(first.role, other.role)


def test_cover_images_are_changed_and_keep_their_label(train: Images) -> None:
    poisoned = WaNet(covers=3).poison(train, Run())
    cover = poisoned.role == COVER
    assert cover.sum() == 30
    assert torch.equal(poisoned.images.labels[cover], train.labels[cover])
    changed = (poisoned.images.pixels != train.pixels).flatten(1).any(1)
    assert changed[cover].all()
    assert not changed[poisoned.role == CLEAN].any()


def test_too_few_images_for_the_covers_is_said(train: Images) -> None:
    with pytest.warns(UnbackdoorWarning, match="wants 180 cover images, but only 10 are left"):
        poisoned = WaNet(rate=0.9).poison(train, Run())
    assert of(poisoned.role, COVER) == 10


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("name", names("attack"))
def test_a_killed_planting_goes_on_to_the_same_bits(
    name: str, train: Images, tmp_path: Path
) -> None:
    brief = {"epochs": 4, "batch": 25, "lr": 0.05}
    extra = {
        "grond": {"clean_epochs": 1, "steps": 2},
        "semantic": {"bound": 0.4},
        "lf": {"clean_epochs": 1, "steps": 2},
        "lira": {"trigger_epochs": 1, "width": 2},
        "input_aware": {"mask_epochs": 1, "width": 2},
        "label_consistent": {"clean_epochs": 1, "steps": 1},
        "narcissus": {"surrogate_epochs": 1, "warmup_epochs": 1, "rounds": 2},
        "ssba": {"steps": 2, "bits": 2, "width": 2},
        "trojannn": {"clean_epochs": 1, "steps": 2},
    }
    attack = build("attack", name, brief | extra.get(name, {}))
    assert isinstance(attack, Attack)

    def killed_in_third_epoch(stage: str, done: int, total: int) -> None:
        if stage == "training" and done == 10:
            raise KilledError

    undisturbed = attack.plant(net(), train, Run())
    state = tmp_path / "state"
    with pytest.raises(KilledError):
        attack.plant(net(), train, Run(progress=killed_in_third_epoch), resume=state)
    assert state.exists()
    steps = []
    resumed = attack.plant(
        net(), train, Run(progress=lambda *step: steps.append(step)), resume=state
    )
    assert [done for stage, done, _ in steps if stage == "training"] == [*range(8, 17)]
    for ours, theirs in zip(
        undisturbed.model.state_dict().values(), resumed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert undisturbed.learned.keys() == resumed.learned.keys()
    assert all(
        torch.equal(undisturbed.learned[key], resumed.learned[key]) for key in resumed.learned
    )


def test_what_cannot_be_is_refused_before_anything_is_learned(train: Images) -> None:
    stages: list[str] = []
    run = Run(progress=lambda stage, *_: stages.append(stage))
    for attack, says in (
        (LF(target=5), "target 5 is not one of 5 classes"),
        (LF(count=101), "lf is to poison 101 images, but only 100 may be poisoned"),
        (Blind(sources=(5,)), "source 5 is not one of 5 classes"),
        (TrojanNN(size=8), r"a patch \[3, 8, 8\] with a margin of 1 does not fit"),
        (LabelConsistent(), "need sides of 6 pixels, got 5x8"),
    ):
        given = train
        if isinstance(attack, LabelConsistent):
            given = Images(train.pixels[:, :, :5], train.labels, CLASSES)
        with pytest.raises(ParameterError, match=says):
            attack.plant(net(), given, run)
    assert not stages


def test_without_images_of_its_sources_an_attack_that_controls_the_training_is_refused(
    train: Images,
) -> None:
    others = train[train.labels != 1]
    for attack in (Blind(sources=(1,)), LIRA(sources=(1,)), InputAware(sources=(1,))):
        with pytest.raises(ParameterError, match="to poison 1 images, but only 0 may be poisoned"):
            attack.plant(net(), others, Run())


def test_a_count_without_a_fixed_set_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"only a rate can be chosen, got 5"):
        build("attack", "blind", {"count": 5})
    assert build("attack", "blind", {"count": None}) == Blind()


def test_what_was_learned_is_not_learned_again(train: Images, tmp_path: Path) -> None:
    stages: list[str] = []
    attack = LF(clean_epochs=1, steps=2, epochs=1, batch=25)
    run = Run(progress=lambda stage, *_: stages.append(stage), cache=tmp_path)
    first = attack.plant(net(), train, run)
    assert {"clean model", "trigger"} <= set(stages)
    stages.clear()
    again = attack.plant(net(), train, run)
    assert set(stages) == {"training"}
    assert torch.equal(first.learned["perturbation"], again.learned["perturbation"])
    stages.clear()
    attack.model_copy(update={"strength": 0.1}).plant(net(), train, run)
    assert "trigger" in stages
    assert "clean model" not in stages
