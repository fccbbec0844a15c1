import math
from itertools import pairwise

import pytest
import torch
from torch.nn import BatchNorm2d

from defenses.samples import task
from unbackdoor.core.images import Images
from unbackdoor.core.run import Run
from unbackdoor.defenses.self_distillation import Guide, SelfDistillation
from unbackdoor.training.fit import augment, fit


def trained() -> tuple[Images, torch.nn.Module]:
    clean, net = task()
    fit(net, clean, Run(precision="fp32"), epochs=8, lr=0.05, batch=16, flip=False)
    return clean, net


def test_it_prunes_the_most_idle_channels_and_they_stay_silent():
    clean, net = trained()
    repaired = SelfDistillation(p=2, epochs=1, enough_images=1, flip=False, max_acc_drop=1).repair(
        net, clean, Run()
    )
    for name, silent in repaired.silenced.items():
        assert int(silent.sum()) == len(silent) // 2
        scores = repaired.scores[name]
        assert scores[silent].min() >= scores[~silent].max()
        assert not repaired.model.get_submodule(name).weight[silent].any()


def test_labels_are_not_used():
    clean, net = trained()
    wrong = Images(clean.pixels, clean.labels.roll(1), clean.classes)
    one, other = (
        SelfDistillation(epochs=1, enough_images=1, held_out=0).repair(net, images, Run()).model
        for images in (clean, wrong)
    )
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_without_pruning_it_keeps_the_answers():
    clean, net = trained()
    repaired = SelfDistillation(p=0, epochs=4, enough_images=1, flip=False, held_out=0).repair(
        net, clean, Run()
    )
    x = clean.pixels.float() / 255
    agree = (repaired.model.eval()(x).argmax(1) == net.eval()(x).argmax(1)).float().mean()
    assert agree > 0.9
    assert not repaired.silenced and not repaired.scores


def test_norms_take_their_statistics_from_undisturbed_images_in_the_end():
    clean, net = trained()
    method = SelfDistillation(epochs=1, enough_images=1, batch=len(clean), held_out=0)
    repaired = method.repair(net, clean, Run(precision="fp32")).model
    name, norm = next((n, m) for n, m in repaired.named_modules() if isinstance(m, BatchNorm2d))
    seen = []
    norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    rng = Run().rng("norms")
    (x, _), *_ = clean.batches(len(clean), rng)
    repaired.eval()(augment(x, rng, flip=True))
    torch.testing.assert_close(norm.running_mean, seen[0].mean((0, 2, 3)), rtol=1e-4, atol=1e-4)
    assert norm.momentum == net.get_submodule(name).momentum


@pytest.mark.parametrize(
    ("choice", "value"),
    [("disturbed", 0.0), ("certainty", 0.0), ("temperature", 4.0), ("glance", 1)],
)
def test_what_is_taught_is_as_declared(choice, value):
    clean, net = trained()
    settings = {"epochs": 1, "enough_images": 1, "held_out": 0}
    one, other = (
        SelfDistillation(**settings, **changed).repair(net, clean, Run(precision="fp32")).model
        for changed in ({}, {choice: value})
    )
    assert not torch.equal(one[0].weight, other[0].weight)


def test_few_images_are_shown_more_often():
    clean, net = trained()
    run, told = Run(), []
    run = Run(progress=lambda stage, done, total: told.append((stage, total)))
    method = SelfDistillation(epochs=2, enough_images=5 * len(clean), batch=len(clean), held_out=0)
    method.repair(net, clean, run)
    assert ("fine-tuning", 10) in told


def test_the_reach_grows_until_enough_answers_turn():
    method = SelfDistillation(turned=0.2)
    assert method.next_reach(2.0, 0.2) == 2.0
    assert method.next_reach(2.0, 0.0) == 2.2
    assert method.next_reach(2.0, 0.4) == 1.8
    assert method.next_reach(49.9, 0.0) == 50.0


def test_the_climbs_turn_the_share_that_was_asked_for(monkeypatch):
    clean, net = trained()
    seen = []
    follow = SelfDistillation.next_reach

    def watch(self, reach, turned):
        seen.append((reach, turned))
        return follow(self, reach, turned)

    monkeypatch.setattr(SelfDistillation, "next_reach", watch)
    SelfDistillation(turned=0.3, rho=0.2, epochs=40, enough_images=1, lr=1e-4, held_out=0).repair(
        net, clean, Run(precision="fp32")
    )
    assert seen[0][0] == 0.2
    late = [turned for _, turned in seen[len(seen) // 2 :]]
    assert 0.15 < sum(late) / len(late) < 0.45


def test_the_pace_grows_while_steps_unsettle_few_answers():
    method = SelfDistillation(unsettled=0.1)
    assert method.next_pace(2.0, 0.1) == 2.0
    assert method.next_pace(2.0, 0.0) == 2.1
    assert method.next_pace(2.0, 0.3) == 1.8
    assert method.next_pace(1.0, 0.3) == 1.0  # never slower than asked for
    assert method.next_pace(4.99, 0.0) == 5.0


def paces(method: SelfDistillation, monkeypatch) -> list[float]:
    clean, net = trained()
    seen = []
    rate = Guide.rate

    def watch(self, step, steps):
        seen.append(self.sgd.param_groups[0]["pace"])
        return rate(self, step, steps)

    monkeypatch.setattr(Guide, "rate", watch)
    repaired = method.repair(net, clean, Run(precision="fp32"))
    assert repaired.notes["pace"] == seen[-1]
    return seen


def test_a_model_that_is_sure_is_taken_faster_until_a_third_is_over(monkeypatch):
    sure = SelfDistillation(unsettled=0.3, epochs=4, enough_images=1, batch=16, lr=1e-5, held_out=0)
    seen = paces(sure, monkeypatch)
    third = math.ceil(len(seen) / 3)
    assert seen[0] == 1 and all(a < b for a, b in pairwise(seen[: third + 1]))
    assert len(set(seen[third:])) == 1


def test_a_model_that_wavers_is_not(monkeypatch):
    never = SelfDistillation(unsettled=0, epochs=6, enough_images=1, batch=64, held_out=0)
    assert set(paces(never, monkeypatch)) == {1.0}
