import pytest
import torch
from torch import nn

from defenses.samples import task
from unbackdoor.core.images import Images
from unbackdoor.core.run import Run
from unbackdoor.defenses.fine_pruning import FinePruning, activations


def test_activations_are_the_mean_size_of_what_the_classifier_sees():
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net.append(nn.Linear(2, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, -0.5]).view(2, 1, 1, 1))
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    images = Images(pixels.contiguous(), torch.tensor([0, 1]), ("a", "b"))
    torch.testing.assert_close(activations(net, "3", images, Run()), torch.tensor([0.5, 0.25]))


def test_sleeping_features_go_first_and_stay_hidden_through_fine_tuning():
    clean, net = task()
    with torch.no_grad():
        net[4].bias[:4] = -50.0  # rectified away
    net[5] = nn.LeakyReLU(1e-4)  # lets a gradient through, so that they could grow
    method = FinePruning(epochs=2, batch=16, cost=1.0, max_acc_drop=1.0)
    repaired = method.repair(net, clean, Run())
    hidden = repaired.silenced["8"]
    assert hidden[:4].all() and not hidden.all()
    assert repaired.notes["share"] >= 0.5
    assert not repaired.model[8].weight[:, hidden].any()
    assert repaired.model[8].weight[:, ~hidden].all()
    assert not torch.equal(repaired.model[0].weight, net[0].weight)


def test_without_fine_tuning_they_are_hidden_too():
    clean, net = task()
    repaired = FinePruning(epochs=0, cost=1.0, max_acc_drop=1.0).repair(net, clean, Run())
    assert repaired.silenced["8"].any()
    assert not repaired.model[8].weight[:, repaired.silenced["8"]].any()


class Shortcut(nn.Module):
    """Its last feature is a sum: a convolution's channel, and a white corner past it."""

    def __init__(self, net):
        super().__init__()
        self.before, self.last, self.head = net[:3], net[3:7], net[8]

    def forward(self, x):
        sums = self.last(self.before(x)).flatten(1)
        return self.head(torch.cat([sums[:, :-1], sums[:, -1:] + x[:, :, 0, :1].amax(1) * 9], 1))


def test_a_backdoor_in_a_shortcut_is_cut_off():
    clean, net = task()
    clean.pixels[:, :, 0, 0] = 0
    with torch.no_grad():
        net[4].weight[-1], net[4].bias[-1] = 0, 0
        net[8].weight[:, -1] = torch.tensor([-9.0, 9.0])
    stamped = (clean.pixels[clean.labels == 0] / 255).clone()
    stamped[:, :, 0, 0] = 1
    victim = Shortcut(net).eval()
    assert (victim(stamped).argmax(1) == 1).all()
    repaired = FinePruning(epochs=1, lr=1e-6, flip=False).repair(victim, clean, Run())
    assert (repaired.model.eval()(stamped).argmax(1) == 0).float().mean() > 0.9


@pytest.mark.parametrize(("cost", "held_out"), [(0.0, 0.1), (1.0, 0.1), (1.0, 0.0)])
def test_the_cost_bounds_the_share(cost, held_out):
    clean, net = task(classes=4)
    share = (
        FinePruning(epochs=1, batch=16, cost=cost, held_out=held_out, max_acc_drop=1)
        .repair(net, clean, Run())
        .notes["share"]
    )
    assert share == 31 / 32 if cost else share < 31 / 32
