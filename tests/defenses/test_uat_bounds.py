"""What UAT says beforehand, what it refuses, how large its steps are, and transformations."""

import pytest
import torch
from torch import nn

from defenses.samples import task
from unbackdoor.core.errors import ModelError, ParameterError
from unbackdoor.core.method import build
from unbackdoor.core.run import Run
from unbackdoor.defenses import uat
from unbackdoor.defenses.uat import UAT, Lesson
from unbackdoor.training import relative
from unbackdoor.training.transforms import Transforms
from unbackdoor.training.universal import Universal


@pytest.mark.parametrize(
    ("fields", "images", "classes", "told"),
    [
        # 50 steps an epoch, 5 searches: 3 steps of ascent, 5.8 for a patch, and 2 for twelve
        # transformations of half a batch without a gradient; 36 more in the first, and each class
        ({"epochs": 6}, 5000, 10, 6 * (1 + 2 / 3 + 5 * 10.8 / 50) + 4 + (9 * 5.8 + 6) / 50),
        ({"epochs": 6}, 5000, 1000, 6 * (1 + 2 / 3 + 5 * 10.8 / 50) + 4 + (49 * 5.8 + 6) / 50),
        ({"epochs": 6, "patched": 0}, 5000, 10, 6 * (1 + 2 / 3 + 5 * 5 / 50) + 4 + 6 / 50),
        ({"epochs": 6, "disturbed": 0}, 5000, 10, 6 * (5 / 3 + 5 * 8.8 / 50) + 4 + 9 * 5.8 / 50),
        ({"epochs": 0}, 5000, 10, 4),
        # 45 steps: there are five searches, for each epoch begins with one
        ({"epochs": 1, "enough_images": 1}, 4500, 1, 1 + 2 / 3 + 5 * 10.8 / 45 + 4 + 6 / 45),
        # one step an epoch, and a search in every tenth
        ({"epochs": 1, "settling": 0, "enough_images": 1}, 100, 10, 5 / 3 + 1.08 + 9 * 5.8 + 6),
    ],
)
def test_its_work_counts_every_search_and_the_first_ones(fields, images, classes, told):
    assert UAT(**fields).work(images, classes) / images == pytest.approx(told)


@pytest.mark.parametrize("fields", [{"patched": 0.9, "disturbed": 0.9}, {"patched": 0.5}])
def test_shares_of_more_than_all_images_are_refused(fields):
    with pytest.raises(
        ParameterError, match=r"disturbed: .*patched \(0\.\d\) and it .* at most 1, got"
    ):
        build("defense", "uat", fields)
    assert build("defense", "uat", {"patched": 0.7, "disturbed": 0.3})


class InPlace(nn.Module):
    """Changes what it is given, as some do to normalise."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x.mul_(0.5).mul_(2))  # the same, but for a trace


def test_a_forward_that_changes_its_input_spoils_no_batch(monkeypatch):
    clean, net = task()
    model = InPlace(net)
    monkeypatch.setattr(InPlace, "forward", lambda self, x: self.net(x.mul_(0.5)))
    lesson = Lesson(UAT(), model, 4)
    lesson.optimized(model.parameters())
    x = clean.pixels[:20] / 255
    before = x.clone()
    lesson(model, x, clean.labels[:20])
    lesson.worth = 0.5
    lesson.settle(model, x, clean.labels[:20])
    assert torch.equal(x, before)


def test_a_forward_without_gradients_is_one_line():
    clean, net = task()
    monkey = nn.Sequential(net)
    monkey.forward = torch.no_grad()(net.forward)
    with pytest.raises(ModelError, match=r"runs under torch\.no_grad"):
        Universal(6.0, 1).search(monkey, clean.pixels / 255, clean.labels)
    with pytest.raises(ModelError, match=r"runs under torch\.no_grad"):
        build("defense", "fine_tuning", {"epochs": 1}).repair(monkey, clean, Run())


def test_a_turn_that_sends_images_to_a_class_is_found_and_put_on(monkeypatch):
    clean, net = task()
    lesson = Lesson(UAT(batch=20, every=1, patched=0, radius=1e-6), net, 4)
    lesson.optimized(net.parameters())
    searched, put = [], []
    monkeypatch.setattr(Transforms, "search", lambda self, _, x, y: searched.append((x, y)))
    monkeypatch.setattr(Transforms, "put", lambda self, x: put.append(len(x)) or 1 - x)
    monkeypatch.setattr(uat, "disturbed", lambda x, _: x)
    x, y = clean.pixels[:20] / 255, clean.labels[:20]
    lesson(net, x, y)
    assert torch.equal(searched[0][0], x) and torch.equal(searched[0][1], y) and not put
    inputs = []
    net.register_forward_pre_hook(lambda _, x: inputs.append(x[0]))
    for hits, more in ((0.75, 1), (1.0, 3)):  # the surer, the more
        lesson.transforms.state["found"] = [(hits, "blur", torch.ones(1, 1))]
        lesson.settle(net, x, y)
        assert put.pop() == more
        torch.testing.assert_close(inputs[-1][:more], 1 - x[:more])
        assert torch.equal(inputs[-1][more:], x[more:])


@pytest.mark.parametrize("part", [1.0, 0.5])
def test_steps_are_smaller_where_the_network_bears_less(monkeypatch, part):
    clean, net = task()
    rates = {}
    monkeypatch.setattr(uat, "borne", lambda model, images, run, rate: part)

    def fitted(model, images, run, **told):
        groups = told["optimizer"]([net[3].weight]).param_groups
        rates[told["stage"]] = told["lr"], groups[0]["lr"] / relative._scale(net[3].weight)

    monkeypatch.setattr(uat, "fit", fitted)
    notes = UAT(lr=0.01, settling_lr=0.002).mend(net, clean, Run()).notes
    assert rates["fine-tuning"] == pytest.approx((0.01 * part, 0.01 * part))
    assert rates["settling"] == pytest.approx((0.002 * part, 0.002 * part))
    assert (notes["lr"], notes["settling_lr"]) == (0.01 * part, 0.002 * part)
