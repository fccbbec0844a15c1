import copy

import pytest
import torch
from torch import nn

from defenses.samples import task
from unbackdoor.core.run import Run
from unbackdoor.defenses.mcr import MCR, Curve


def test_the_curve_starts_and_ends_at_its_ends_and_bends_between():
    start, end = nn.Linear(2, 2), nn.Linear(2, 2)
    curve = Curve(start, end)
    for t, net in ((0.0, start), (1.0, end)):
        for a, b in zip(curve.point(t), net.parameters(), strict=True):
            assert torch.equal(a, b)
    curve.bend[0].data.fill_(10.0)
    expected = 0.25 * start.weight + 0.5 * 10 + 0.25 * end.weight
    torch.testing.assert_close(curve.point(0.5)[0], expected)
    x = torch.rand(3, 2)
    torch.testing.assert_close(curve(x, 1.0), end(x))
    assert {name for name, p in curve.named_parameters() if p.requires_grad} == {"bend.0", "bend.1"}


def test_the_start_of_the_curve_is_the_model():
    clean, net = task()
    repaired = MCR(epochs=1, copy_epochs=1, batch=20, t=0.0).repair(net, clean, Run()).model
    for a, b in zip(repaired.parameters(), net.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_bend_learns_and_the_ends_do_not():
    clean, net = task()
    told = {}
    tune = MCR.tune

    def watch(self, model, *args, stage, **more):
        told[stage] = (model, more)
        before = [bend.detach().clone() for bend in getattr(model, "bend", [])]
        tune(self, model, *args, stage=stage, **more)
        told[f"{stage} before"] = before

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MCR, "tune", watch)
        MCR(epochs=2, copy_epochs=2, batch=20, lr=0.05).mend(net, clean, Run())
    curve, _ = told["bend"]
    assert told["copy"][1]["lr"] == 0.01
    moved = [(a - b).abs().max() for a, b in zip(curve.bend, told["bend before"], strict=True)]
    assert min(moved) > 0
    with torch.no_grad():
        for t in (0.1, 0.5, 0.9):
            right = (curve.eval()(clean.pixels / 255, t).argmax(1) == clean.labels).float().mean()
            assert right > 0.8


def test_norms_are_estimated_anew_at_the_point():
    clean, net = task()
    repaired = MCR(epochs=0, copy_epochs=0, batch=80, t=0.3, held_out=0).repair(net, clean, Run())
    assert not torch.equal(repaired.model[1].running_mean, net[1].running_mean)


def test_a_point_between_moves_and_works():
    clean, net = task()
    repaired = MCR(epochs=2, copy_epochs=2, batch=20, t=0.5).repair(net, clean, Run())
    assert not torch.equal(repaired.model[0].weight, net[0].weight)
    assert repaired.notes["held_out_acc_after"] > 0.8


def test_the_end_of_the_curve_is_the_fine_tuned_copy(monkeypatch):
    clean, net = task()
    kept = {}
    tune = MCR.tune

    def watch(self, model, *args, stage, **more):
        tune(self, model, *args, stage=stage, **more)
        kept[stage] = copy.deepcopy(model)

    monkeypatch.setattr(MCR, "tune", watch)
    method = MCR(epochs=1, copy_epochs=1, batch=20, t=1.0)
    repaired = method.mend(copy.deepcopy(net), clean, Run()).model
    for a, b in zip(repaired.parameters(), kept["copy"].parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(repaired[0].weight, net[0].weight)


def test_the_bend_learns_at_points_all_over_the_curve(monkeypatch):
    clean, net = task()
    points = []
    forward = Curve.forward

    def watch(self, x, t):
        points.append(t)
        return forward(self, x, t)

    monkeypatch.setattr(Curve, "forward", watch)
    # With no copy the curve is a point and stays one, unless the images bend it.
    method = MCR(epochs=2, copy_epochs=0, batch=10, lr=0.05, weight_decay=0.0, t=0.5)
    repaired = method.mend(copy.deepcopy(net), clean, Run()).model
    assert len(set(points)) == 16 and min(points) < 0.3 and max(points) > 0.7
    for index in (0, 3, 8):
        assert not torch.allclose(repaired[index].weight, net[index].weight)
