import pytest
import torch
from torch import nn

from defenses.samples import task
from unbackdoor.core.errors import ModelError
from unbackdoor.core.run import Run
from unbackdoor.defenses.fst import FST, classifier


def test_the_new_classifier_is_as_long_as_the_old_and_points_elsewhere():
    clean, net = task()
    old = net[8].weight.detach()

    def likeness(alpha):
        model = FST(epochs=3, batch=16, alpha=alpha, max_acc_drop=1).repair(net, clean, Run()).model
        new = model[8].weight.detach()
        torch.testing.assert_close(new.norm(), old.norm())
        return (new * old).sum() / old.square().sum()

    assert likeness(5.0) < likeness(0.0) - 0.5


def test_the_classifier_is_found_by_its_output():
    net = nn.ModuleDict({"head": nn.Linear(3, 2), "body": nn.Linear(4, 3)})

    class Net(nn.Module):
        def __init__(self, after):
            super().__init__()
            self.parts, self.after = net, after

        def forward(self, x):
            return self.after(self.parts["head"](self.parts["body"](x.flatten(1)).relu()))

    x = torch.rand(2, 1, 2, 2)
    assert classifier(Net(nn.Identity()), x, "fst") is net["head"]
    with pytest.raises(ModelError, match="fst needs a linear layer that puts out the logits"):
        classifier(Net(nn.Softmax(1)), x, "fst")
