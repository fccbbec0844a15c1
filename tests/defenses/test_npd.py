import pytest
import torch
from torch import nn

from defenses.samples import task
from unbackdoor.core.errors import ModelError
from unbackdoor.core.run import Run
from unbackdoor.defenses.npd import NPD
from unbackdoor.network.inserts import Polish


def staged(seed=0):
    """The sample net with a pooling between its convolutions: two stages."""
    clean, net = task(seed=seed)
    return clean, nn.Sequential(*net[:3], nn.MaxPool2d(2), *net[3:]).eval()


def test_examples_go_to_the_rival_class_within_the_ball():
    clean, net = task(classes=4)
    x, y = clean.pixels[:12].float() / 255, clean.labels[:12]
    method = NPD(radius=1.0)
    moved, targets = method.examples(net, x, y)
    assert (moved - x).flatten(1).norm(dim=1).max() <= 1.0001
    assert (targets != y).all()
    before, after = (net(z).softmax(1).gather(1, targets.unsqueeze(1)) for z in (x, moved))
    assert (after > before).all()


def test_without_training_the_layer_does_nothing():
    clean, net = staged()
    repaired = NPD(epochs=0, held_out=0).repair(net, clean, Run())
    x = clean.pixels.float() / 255
    torch.testing.assert_close(repaired.model(x), net(x), atol=1e-3, rtol=1e-3)
    layers = [name for name, m in repaired.model.named_modules() if isinstance(m, Polish)]
    assert layers == ["2.polish"]  # behind the activation that ends the first stage
    polish = repaired.model[2].polish
    torch.testing.assert_close(polish.train()(net[:3](x)), net[:3](x), atol=1e-2, rtol=1e-2)


def test_only_the_layer_learns_and_it_learns_to_resist():
    clean, net = staged()
    x, y = clean.pixels.float() / 255, clean.labels
    method = NPD(epochs=20, batch=20, radius=2.0)
    repaired = method.repair(net, clean, Run()).model
    for name, value in net.state_dict().items():
        assert torch.equal(value, repaired.state_dict()[name])
    moved, _ = method.examples(net, x, y)
    right = [(model(moved).argmax(1) == y).float().mean() for model in (net, repaired)]
    assert right[1] > right[0]
    assert all(weight.requires_grad for weight in repaired.parameters())


def test_a_network_without_maps_is_refused_before_any_work():
    clean, _ = task()
    with pytest.raises(ModelError, match="npd needs feature maps"):
        NPD().repair(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), clean, Run())
