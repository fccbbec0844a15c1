import math

import pytest
import torch
from torch import nn

from defenses.samples import backdoored, rate, stamped, task
from unbackdoor.core.run import Run
from unbackdoor.defenses import uat
from unbackdoor.defenses.uat import UAT, Lesson
from unbackdoor.training.fit import follow_norms_
from unbackdoor.training.patches import Patches
from unbackdoor.training.universal import Universal
from unbackdoor.training.views import View

SMALL = {"batch": 20, "enough_images": 80}


@pytest.fixture(autouse=True)
def plenty(monkeypatch):
    """As if the samples' 60 images were not few."""
    monkeypatch.setattr(uat, "PLENTY", 80)


def test_it_raises_the_loss_and_stays_in_its_ball():
    clean, net = backdoored(classes=4)
    x, y = clean.pixels / 255, clean.labels
    for length in (2.0, 0.5):
        found = Universal(radius=length / math.sqrt(64 / 3072), steps=5)
        found.search(net, x, y)
        away = found.state["away"]
        assert away.shape == (1, 1, 8, 8) and away.norm() <= length + 1e-4
        backdoor = net(x + away).softmax(1)[:, 1].mean()  # class 1 is the backdoor's
        if length == 2:  # so is its trigger
            assert backdoor > 0.99 and (away[0, 0, :2, :2] > 0.4).all()
        else:
            assert backdoor < 0.9


def test_every_other_time_it_sends_images_to_a_class_each_in_its_turn():
    clean, net = backdoored(classes=4)
    x, y = clean.pixels / 255, clean.labels
    found = Universal(radius=40.0, steps=20)
    left, towards = [], []
    for number in range(16):
        before = found.state["away"].clone()
        found.search(net, x, y)
        after = found.state["away"]
        assert not torch.equal(before, after)
        if number % 2:
            left.append(len(found.state["classes"]))
            towards.append(int(net(x + after).argmax(1).mode().values))
    assert left == [3, 2, 1, 0, 3, 2, 1, 0]
    assert set(towards[:4]) == set(towards[4:]) == set(range(4))


def test_it_follows_the_gradient_of_a_training_step():
    clean, net = backdoored(classes=4)
    lesson = Lesson(UAT(batch=20, every=100, share=1, radius=14.0), net, 4)
    lesson.optimized(net.parameters())
    x, y = clean.pixels[:20] / 255, clean.labels[:20]
    lesson(net, x, y).backward()
    first = lesson.universal.state["away"]
    assert first.grad is not None and first.grad.abs().sum() > 0
    lesson(net, x, y)
    assert not torch.equal(lesson.universal.state["away"], first)


RADIUS = 2.0 / math.sqrt(64 / 3072)


@pytest.mark.parametrize(
    ("radius", "patched", "least", "most"),
    [(RADIUS, 0, 0, 0), (1e-6, 0.4, 0, 0.5), (RADIUS, 0.2, 0, 0), (1e-6, 0, 1, 1)],
)
def test_it_takes_the_backdoor_out_and_keeps_the_accuracy(radius, patched, least, most):
    """By perturbations, by patches (of one pixel or two) or both; without either it stays."""
    clean, net = backdoored()
    assert rate(net, stamped(clean), 1) == 1
    changes = {"radius": radius, "patched": patched, "disturbed": 0, "decay": 0}
    method = UAT(**SMALL, epochs=40, lr=0.05, **changes)
    repaired = method.repair(net, clean, Run()).model
    assert least <= rate(repaired, stamped(clean), 1) <= most
    assert rate(repaired, clean) == 1


@pytest.mark.parametrize(("momentum", "moved"), [(0.0, False), (0.5, True)])
def test_the_statistics_of_norms_follow_the_clean_images(momentum, moved):
    clean, net = task()
    net[1].running_mean.fill_(5.0)
    method = UAT(**SMALL, epochs=1, lr=1e-6, norm_momentum=momentum, settling=0, held_out=0)
    repaired = method.repair(net, clean, Run()).model
    if moved:  # to where they are taken anew from the clean images alone, not from moved ones
        maps = net[0](clean.pixels / 255)
        wanted = maps.mean((0, 2, 3))
        torch.testing.assert_close(repaired[1].running_mean, wanted, atol=0.5, rtol=0)
    else:
        assert torch.equal(repaired[1].running_mean, net[1].running_mean)


def test_a_pass_for_norms_changes_nothing_else():
    _, net = task()
    net = nn.Sequential(*net[:7], nn.Dropout(0.5), *net[7:]).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    momenta = [module.momentum for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    follow_norms_(net, torch.rand(8, 1, 8, 8), 1.0)
    assert [module.training for module in net.modules()] == modes
    assert [m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm2d)] == momenta
    changed = {name for name, tensor in net.state_dict().items() if not tensor.equal(before[name])}
    assert changed and all("running" in name or "tracked" in name for name in changed)


def test_settling_wins_back_accuracy_without_the_perturbation():
    clean, net = task()
    with torch.no_grad():
        net[-1].bias[0] += 10.0  # all images go to class 0
    method = UAT(**SMALL, epochs=0, settling=40, settling_lr=0.05)
    settled = method.repair(net, clean, Run()).model
    assert rate(settled, clean) > rate(net, clean) + 0.2
    assert torch.equal(settled[1].running_mean, net[1].running_mean)  # eval mode


def test_dropout_is_off():
    clean, net = task()
    seen = []
    dropout = nn.Dropout(0.5)
    dropout.register_forward_hook(lambda module, *_: seen.append(module.training))
    net = nn.Sequential(*net[:7], dropout, *net[7:]).train()
    repaired = UAT(**SMALL, epochs=1).repair(net, clean, Run()).model
    assert not torch.equal(repaired[0].weight, net[0].weight)
    assert not any(seen[1:]) and repaired.training


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_a_step_is_relative_to_the_weights(scale):
    _, net = task()
    weight, bias = net[3].weight, net[3].bias
    with torch.no_grad():
        weight.mul_(scale)
    groups = Lesson(UAT(lr=0.01), net, 1).optimized([weight, bias]).param_groups
    size = weight.detach().square().mean().sqrt().item()
    assert groups[0]["lr"] == pytest.approx(0.01 * max(size, 1e-3))
    assert groups[1]["lr"] == pytest.approx(0.0015)


def test_matrices_fade_relative_to_the_step_and_vectors_do_not():
    _, net = task()
    weight, bias = net[3].weight, net[3].bias
    before = weight.detach().clone()
    optimizer = Lesson(UAT(lr=0.1, decay=0.5), net, 1).optimized([weight, bias])
    weight.grad, bias.grad = torch.zeros_like(weight), torch.zeros_like(bias)
    bias_before = bias.detach().clone()
    optimizer.step()
    torch.testing.assert_close(weight.detach(), before * 0.95)
    assert torch.equal(bias, bias_before)


def test_the_old_answers_and_the_labels_share_the_loss():
    clean, net = task()
    x, y = clean.pixels / 255, 1 - clean.labels  # wrong, so that they say something else
    told = []
    for share in (0, 0.5, 1):
        lesson = Lesson(
            UAT(labels=share, radius=1e-6, patched=0, disturbed=0, norm_momentum=0), net, 4
        )
        lesson.optimized(net.parameters())
        told.append(lesson(net, x, y).item())
    assert told[0] == pytest.approx(0, abs=1e-4)  # it still answers as it did
    plain = nn.functional.cross_entropy(net(x), y).item()
    assert plain > 1
    assert told[2] == pytest.approx(plain, rel=1e-3)
    assert told[1] == pytest.approx((told[0] + told[2]) / 2, rel=1e-3)


def test_settling_keeps_the_patches_and_disturbs_but_does_not_search(monkeypatch):
    clean, net = task()
    seen, calls = [], []
    monkeypatch.setattr(Patches, "search", lambda self, *_: calls.append("search"))
    monkeypatch.setattr(uat, "disturbed", lambda x, _: seen.append(len(x)) or x)
    lesson = Lesson(UAT(patched=0.2, disturbed=0.3), net, 4)
    lesson.optimized(net.parameters())
    lesson.settle(net, clean.pixels[:20] / 255, clean.labels[:20])
    assert (seen, calls) == ([6], [])  # no patch is known yet
    torch.manual_seed(0)  # a patch may have holes
    lesson.patches.state["found"] = [(1.0, (0, 4, 0, 4), (0, 4, 0, 4), torch.ones(1, 1, 8, 8))]
    inputs = []
    net.register_forward_pre_hook(lambda _, x: inputs.append(x[0]))
    lesson.settle(net, clean.pixels[:20] / 255, clean.labels[:20])
    changed = (inputs[0] != clean.pixels[:20] / 255).flatten(1).any(1)
    assert changed[:4].all() and not changed[4:].any() and not calls


def test_few_images_are_passed_over_more_often(monkeypatch):
    monkeypatch.setattr(uat, "borne", lambda *_: 1.0)  # its passes hang on no epoch
    clean, net = task()
    told = {"batch": 20, "epochs": 1, "every": 3, "patched": 0, "disturbed": 0, "settling": 0}
    few, fewer = (UAT(**told, enough_images=n).repair(net, clean, Run()) for n in (36, 110))
    assert fewer.notes["passes"] == pytest.approx(2 * few.notes["passes"])


@pytest.mark.parametrize(("per_epoch", "searches"), [(1, 3), (5, 3), (10, 3), (15, 4)])
def test_epochs_of_few_steps_do_not_search_more_often(monkeypatch, per_epoch, searches):
    clean, net = task()
    found = []
    monkeypatch.setattr(Universal, "search", lambda self, *_: found.append(self.state))
    lesson = Lesson(UAT(every=10, patched=0), net, per_epoch)
    lesson.optimized(net.parameters())
    lesson.universal.state["away"] = torch.zeros_like(clean.pixels[:1] / 255)
    for _ in range(30):
        lesson(net, clean.pixels[:10] / 255, clean.labels[:10])
    assert len(found) == searches


@pytest.mark.parametrize(("plenty", "cropped"), [(110, 0.0), (160, 1.0)])
def test_few_images_are_shown_in_other_views_however_many_are_called_enough(
    monkeypatch, plenty, cropped
):
    clean, net = task()  # 60 images are taught
    monkeypatch.setattr(uat, "PLENTY", plenty)
    method = UAT(batch=20, enough_images=60, epochs=1, settling=1)
    notes = method.repair(net, clean, Run()).notes
    assert notes["cropped"] == notes["mixed"] == cropped and notes["mirrored"] in (0, cropped)


def test_few_images_are_mixed_while_settling():
    clean, net = task()
    x, y = clean.pixels[:20] / 255, clean.labels[:20]
    lesson = Lesson(UAT(patched=0, disturbed=0, radius=1e-6, norm_momentum=0), net, 4)
    lesson.optimized(net.parameters())
    inputs = []
    lesson.teacher.register_forward_pre_hook(lambda _, x: inputs.append(x[0]))
    for lesson.worth in (1.0, 0.5):
        lesson(net, x, y)
        lesson.settle(net, x, y)
    mixed = [not torch.allclose(seen, x, atol=1e-3) for seen in inputs]
    assert mixed == [False, False, True]  # for labels alone the teacher is not asked


def test_a_view_is_what_model_and_teacher_are_shown(monkeypatch):
    clean, net = task()
    lesson = Lesson(UAT(radius=1e-6, patched=0, disturbed=0, norm_momentum=0), net, 4)
    lesson.optimized(net.parameters())
    monkeypatch.setattr(View, "__call__", lambda self, x: x.flip(-1))
    seen = [[], []]
    for model, inputs in zip((net, lesson.teacher), seen, strict=True):
        model.register_forward_pre_hook(lambda _, x, inputs=inputs: inputs.append(x[0]))
    x, y = clean.pixels[:20] / 255, clean.labels[:20]
    lesson(net, x, y)
    lesson.worth = 0.5
    lesson.settle(net, x, y)
    for shown in (seen[0][-2:], seen[1]):
        assert len(shown) == 2
        for each in shown:
            torch.testing.assert_close(each, x.flip(-1), atol=1e-3, rtol=0)


def test_a_patch_is_sought_on_whole_images(monkeypatch):
    clean, net = task()
    seen = []
    monkeypatch.setattr(Patches, "search", lambda self, model, x, y: seen.append(x))
    lesson = Lesson(UAT(), net, 4)
    lesson.optimized(net.parameters())
    monkeypatch.setattr(View, "__call__", lambda self, x: torch.zeros_like(x))
    lesson(net, clean.pixels[:20] / 255, clean.labels[:20])
    assert torch.equal(seen[0], clean.pixels[:20] / 255)


def test_labels_of_few_images_weigh_little_while_settling(monkeypatch):
    clean, net = task()
    monkeypatch.setattr(View, "__call__", lambda self, x: x)
    x, y = clean.pixels / 255, 1 - clean.labels  # wrong, so that they say something else
    lesson = Lesson(UAT(patched=0, disturbed=0), net, 4)
    lesson.optimized(net.parameters())
    told = []
    for lesson.worth in (0.0, 0.1, 1.0):
        told.append(lesson.settle(net, x, y).item())
    assert told[0] == pytest.approx(0, abs=1e-4) and told[2] > 1
    assert told[1] == pytest.approx(0.1 * told[2], rel=1e-3)


def test_the_labels_of_few_images_weigh_what_their_number_is_worth(monkeypatch):
    clean, net = task()
    seen = []
    settle = Lesson.settle
    monkeypatch.setattr(
        Lesson, "settle", lambda self, *told: seen.append(self.worth) or settle(self, *told)
    )
    for plenty in (110, 240):
        monkeypatch.setattr(uat, "PLENTY", plenty)
        UAT(batch=80, enough_images=60, epochs=0, settling=1).repair(net, clean, Run())
    assert seen[0] == 1 and seen[-1] == pytest.approx(70 / 240)
