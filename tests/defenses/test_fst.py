import torch

from defenses.samples import task
from unbackdoor.core.run import Run
from unbackdoor.defenses.fst import FST


def test_the_new_classifier_is_as_long_as_the_old_and_points_elsewhere():
    clean, net = task()
    old = net[8].weight.detach()

    def likeness(alpha):
        model = FST(epochs=3, batch=16, alpha=alpha, max_acc_drop=1).repair(net, clean, Run()).model
        new = model[8].weight.detach()
        torch.testing.assert_close(new.norm(), old.norm())
        return (new * old).sum() / old.square().sum()

    assert likeness(5.0) < likeness(0.0) - 0.5


def test_the_classifier_starts_anew():
    clean, net = task()
    model = FST(epochs=0, held_out=0).repair(net, clean, Run()).model
    assert not torch.equal(model[8].weight, net[8].weight)
    assert torch.equal(model[0].weight, net[0].weight)
    assert FST().weight_decay == 0
