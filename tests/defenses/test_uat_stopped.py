"""UAT that was stopped goes on, and gives the same bits."""

import pytest
import torch

from defenses.samples import task
from unbackdoor.core.run import Run
from unbackdoor.defenses.uat import UAT, Lesson
from unbackdoor.training.universal import Universal


class StoppedError(Exception):
    pass


def stop(stage, done, total):
    if stage == "fine-tuning" and done == 6:  # in the second epoch
        raise StoppedError


@pytest.mark.parametrize("every", [3, 10])  # an epoch has four steps: of ten not each searches
def test_a_stopped_repair_goes_on_with_the_same_bits(tmp_path, every):
    clean, net = task()
    method = UAT(batch=20, enough_images=80, epochs=3, settling=1, every=every)
    whole = method.repair(net, clean, Run()).model
    with pytest.raises(StoppedError):
        method.repair(net, clean, Run(progress=stop, cache=tmp_path))
    again = method.repair(net, clean, Run(cache=tmp_path)).model
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_what_was_read_goes_to_the_device_of_the_images(monkeypatch):
    _, net = task()
    lesson = Lesson(UAT(), net, 1)
    lesson.optimized(net.parameters())
    begun = []
    monkeypatch.setattr(Universal, "begin", lambda self, x: begun.append(x.device))
    lesson.adam.param_groups[0]["steps"] = 1  # the second of epochs of one step: no search
    lesson.universal.state["away"] = torch.zeros(1, 1, 8, 8)
    lesson(net, torch.rand(20, 1, 8, 8), torch.zeros(20).long())
    assert begun == [torch.device("cpu")]
    monkeypatch.undo()
    lesson.universal.begin(torch.empty(1, 1, 8, 8, device="meta"))
    away = lesson.universal.state["away"]
    assert away.device.type == "meta" and away.requires_grad
