import pytest
import torch
from torch import nn
from torch.nn import functional as F

from defenses.samples import task
from unbackdoor.core.errors import ModelError
from unbackdoor.core.run import Run
from unbackdoor.defenses.nad import NAD
from unbackdoor.defenses.npd import NPD
from unbackdoor.network.inserts import Polish


def test_examples_go_to_the_rival_class_within_the_ball():
    clean, net = task(classes=4)
    x, y = clean.pixels[:12].float() / 255, clean.labels[:12]
    method = NPD(radius=1.0, enough=1.0)
    moved, targets = method.examples(net, x, y)
    assert (moved - x).flatten(1).norm(dim=1).max() <= 1.0001
    assert (targets != y).all()
    before, after = (net(z).softmax(1).gather(1, targets.unsqueeze(1)) for z in (x, moved))
    assert (after > before).all()


def test_a_batch_that_is_fooled_enough_is_moved_no_further():
    clean, net = task(classes=4)
    x, y = clean.pixels[:40].float() / 255, clean.labels[:40]
    told = {"radius": 9.0, "step": 0.02, "steps": 30}
    some, all_of_them = (NPD(**told, enough=enough).examples(net, x, y) for enough in (0.3, 1.0))
    shares = [
        (net(moved).argmax(1) == targets).float().mean() for moved, targets in (some, all_of_them)
    ]
    assert 0.3 < shares[0] < shares[1]


def test_the_layer_starts_as_a_fresh_norm_of_what_the_convolution_takes():
    clean, net = task()
    repaired = NPD(epochs=0, held_out=0, max_acc_drop=1).repair(net, clean, Run())
    layers = [name for name, m in repaired.model.named_modules() if isinstance(m, Polish)]
    assert layers == ["0.filter"]  # before the convolution but one
    x = clean.pixels.float() / 255
    taken = repaired.model[0].filter(x)
    torch.testing.assert_close(taken, (x - x.mean()) / x.std(), atol=1e-2, rtol=1e-2)


def test_only_the_layer_learns():
    clean, net = task()
    method = NPD(epochs=3, batch=20, lr=0.002, held_out=0, max_acc_drop=1)
    repaired = method.repair(net, clean, Run()).model
    for name, value in net.state_dict().items():
        assert torch.equal(value, repaired.state_dict()[name])
    assert not torch.equal(repaired[0].filter.conv.weight, torch.ones(1, 1, 1, 1))
    assert all(weight.requires_grad for weight in repaired.parameters())


def test_it_learns_from_clean_images_and_from_examples(monkeypatch):
    clean, net = task(classes=4)
    kept = {}
    monkeypatch.setattr("unbackdoor.defenses.npd.fit", lambda *_, **told: kept.update(told))
    method = NPD(radius=3.0, enough=1.0)
    model = method.mend(net, clean, Run(precision="fp32")).model.eval()
    x, y = clean.pixels[:20].float() / 255, clean.labels[:20]
    moved, targets = method.examples(model, x, y)
    natural, fooled = model(x), model(moved)
    assert (natural.argmax(1) != fooled.argmax(1)).any()
    rival = fooled.scatter(1, y.unsqueeze(1), -torch.inf).argmax(1)

    def avoided(classes):
        others = fooled.log_softmax(1).scatter(1, classes.unsqueeze(1), -torch.inf)
        return -others.logsumexp(1).mean()

    expected = F.cross_entropy(natural, y) + 0.4 * avoided(targets)
    expected += 0.4 * (F.cross_entropy(fooled, natural.argmax(1)) + avoided(rival))
    torch.testing.assert_close(kept["objective"](model, x, y), expected, rtol=1e-4, atol=1e-4)


def test_the_norm_keeps_the_statistics_of_clean_images():
    clean, net = task()
    repaired = NPD(epochs=2, batch=20, held_out=0).repair(net, clean, Run()).model
    with torch.no_grad():
        maps = (clean.pixels / 255).movedim(1, 0).flatten(1)
    norm = repaired[0].filter.norm
    torch.testing.assert_close(norm.running_mean, maps.mean(1), rtol=1e-4, atol=1e-5)
    assert not torch.equal(norm.weight, torch.ones(1))


class Block(nn.Module):
    """A residual block on top of a convolution."""

    def __init__(self):
        super().__init__()
        self.first, self.one, self.two = (nn.Conv2d(i, 3, 3, 1, 1) for i in (1, 3, 3))
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        x = self.first(x).relu()
        return self.head((x + self.two(self.one(x).relu())).mean((2, 3)))


def test_the_shortcut_passes_the_layer_by():
    clean, _ = task()
    net = Block()
    repaired = NPD(epochs=0, held_out=0).repair(net, clean, Run()).model
    assert hasattr(repaired.one, "filter") and not hasattr(repaired.first, "filter")


class Patches(nn.Module):
    """Cuts the image into tokens, and knows no other maps."""

    def __init__(self):
        super().__init__()
        self.patches, self.mixing, self.head = (
            nn.Conv2d(1, 3, 4, 4),
            nn.Linear(3, 3),
            nn.Linear(3, 2),
        )

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.mixing(tokens).relu().mean(1))


@pytest.mark.parametrize("method", [NPD, NAD])
def test_a_transformer_is_refused_before_any_work(method):
    clean, _ = task()
    with pytest.raises(ModelError, match=r"needs feature maps .* cuts the image into patches"):
        method().repair(Patches(), clean, Run())


def test_a_network_without_place_is_refused_before_any_work():
    clean, _ = task()
    with pytest.raises(ModelError, match=r"npd needs two convolutions; .* has 1"):
        NPD().repair(
            nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 2)), clean, Run()
        )
