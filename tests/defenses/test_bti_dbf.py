import copy
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from defenses.samples import task
from unbackdoor.core.errors import ModelError
from unbackdoor.core.images import Images
from unbackdoor.core.run import Run
from unbackdoor.defenses.bti_dbf import BTIDBF

RUN = Run(precision="fp32")
SHORT = {"generator_width": 4, "batch": 40, "flip": False, "held_out": 0.0}


class Two(nn.Module):
    """Features: the left half's brightness, which clean images tell apart, and the right half's."""

    def __init__(self, pull):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))
        self.head = nn.Linear(2, 2)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[-20.0, 0.0], [20.0, pull]]))
            self.head.bias.copy_(torch.tensor([8.0, -8.0]))

    def features(self, x):
        halves = torch.stack([x[..., :4].mean((1, 2, 3)), x[..., 4:].mean((1, 2, 3))], 1)
        return halves * self.scale

    def forward(self, x):
        return self.head(self.features(x))


class Negative(nn.Module):
    """A generator that turns bright into dark."""

    def forward(self, x):
        return 1 - x


def halves():
    """Dark and bright left halves; right halves as dark as each other but for noise."""
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 60, (80, 1, 8, 8), generator=rng, dtype=torch.uint8)
    labels = torch.arange(80) % 2
    pixels[..., :4] += (labels * 150).to(torch.uint8).view(-1, 1, 1, 1)
    pixels[..., 3] = 0  # so that a crop moves nothing of one half into the other
    return Images(pixels, labels, ("dark", "bright"))


def test_the_mask_keeps_the_features_that_clean_images_need():
    clean, method = halves(), BTIDBF(**SHORT, mask_epochs=40, mask_lr=0.2)
    clean.pixels[..., 4:] = 0  # so that the second feature tells nothing
    start = method.model_copy(update={"mask_epochs": 0})._mask(Two(30.0).eval(), clean, RUN, 1)
    mask = method._mask(Two(30.0).eval(), clean, RUN, 1)
    assert mask[0] > 0.95 and mask[0] > start[0] + 0.1
    assert mask[1] == start[1] < 0.9


@cache
def inverted(most_change, target=None):
    """(images, what the generator changed of them at first, and at last), and what it took."""
    clean, model = halves(), Two(30.0).eval()
    told = {"identity_epochs": 40, "trigger_epochs": 40, "generator_lr": 0.02}
    method = BTIDBF(**SHORT, **told, most_change=most_change, most_benign=0.05)
    generator = method._identity(clean, RUN)
    x = clean.pixels / 255
    same = (generator.eval()(x) - x).detach()
    method._invert(generator, model, torch.tensor([1.0, 0.0]), target, clean, RUN, 1)
    return x, same, (generator.eval()(x) - x).detach(), generator, model, method, clean


def test_the_generator_moves_the_other_features_and_its_bound_binds():
    _, same, far, *_ = inverted(0.2)
    assert same.square().mean() < 0.02  # taught to change nothing
    assert far[..., 4:].mean().abs() > 1.5 * far[..., :4].mean().abs()
    near = inverted(1e-6)[2]
    assert near.square().mean() < 0.5 * far.square().mean()


class Brighter(nn.Module):
    """A generator that makes all pixels brighter by one number."""

    def __init__(self):
        super().__init__()
        self.by = nn.Parameter(torch.tensor(0.3))

    def forward(self, x):
        return x + self.by


def test_the_bound_binds_when_the_target_is_known():
    clean, model, generator = halves(), Two(30.0).eval(), Brighter()
    model.scale.data.mul_(0.1)  # so that the target pulls, but not harder than the bound
    method = BTIDBF(**SHORT, trigger_epochs=20, generator_lr=0.02)
    method._invert(generator, model, torch.tensor([1.0, 0.0]), 1, clean, RUN, 1)
    assert generator.by < 0.2  # the bound is 0.012, the square of 0.11


def test_the_target_is_the_most_common_answer_to_its_images():
    _, _, _, generator, model, method, clean = inverted(0.2, target=1)
    assert method._target(generator, model, clean, RUN) == 1


def test_what_the_generator_does_is_unlearned():
    x, _, _, generator, model, method, clean = inverted(0.2, target=1)
    model = copy.deepcopy(model)
    made = generator(x).detach()
    before = (model(made).argmax(1) == clean.labels).float().mean()
    tuned = method.model_copy(update={"epochs": 30, "lr": 0.1, "share": 0.5})
    tuned._unlearn(generator, model, clean, RUN, 1)
    after = (model.eval()(made).argmax(1) == clean.labels).float().mean()
    assert before < 0.7 and after > before + 0.2


def test_a_whole_repair_names_its_target_and_inverts_without_touching_the_model():
    clean, net = task()
    told = {"rounds": 2, "epochs": 1, "mask_epochs": 1, "identity_epochs": 1, "trigger_epochs": 1}
    method = BTIDBF(**SHORT, **told)
    assert method.repair(net, clean, RUN).notes["target"] in (0.0, 1.0)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    trigger = method.inverted(net, clean, RUN)
    assert trigger(clean.pixels[:3] / 255).shape == (3, 1, 8, 8)
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in before.items())


def test_a_network_whose_logits_no_layer_puts_out_is_refused():
    clean, net = task()
    with pytest.raises(ModelError, match="bti_dbf needs a linear layer"):
        BTIDBF().repair(nn.Sequential(net, nn.Tanh()), clean, RUN)


@pytest.fixture
def learned(monkeypatch):
    """The losses that would be learned, in order."""
    losses = []
    monkeypatch.setattr(BTIDBF, "_learn", lambda self, net, loss, *_: losses.append(loss))
    return losses


def test_the_generator_pays_for_benign_features_and_is_answered_with_the_target(learned):
    clean, model = halves(), Two(30.0).eval()
    x, mask = clean.pixels / 255, torch.tensor([0.9, 0.2])
    method = BTIDBF(**SHORT, benign=0.5, most_change=1.0)
    for target in (None, 0):
        method._invert(Negative(), model, mask, target, clean, RUN, 1)
    away = model.features(1 - x) - model.features(x)
    expected = 0.5 * (mask * away).square().mean() - ((1 - mask) * away).square().mean()
    torch.testing.assert_close(learned[0](Negative(), x, clean.labels), expected)
    expected = expected + F.cross_entropy(model(1 - x), torch.zeros_like(clean.labels))
    torch.testing.assert_close(learned[1](Negative(), x, clean.labels), expected)


@pytest.mark.parametrize(("most_change", "most_benign"), [(0.01, 1e9), (1.0, 1e-9), (0.01, 1e-9)])
def test_what_is_above_its_bound_is_lowered_changes_in_the_authors_units(
    learned, most_change, most_benign
):
    clean, model = halves(), Two(30.0).eval()
    x, mask = clean.pixels / 255, torch.tensor([0.9, 0.2])
    method = BTIDBF(**SHORT, most_change=most_change, most_benign=most_benign)
    for target in (None, 0):
        method._invert(Negative(), model, mask, target, clean, RUN, 1)
    away = model.features(1 - x) - model.features(x)
    expected = F.mse_loss(1 - x, x) / 0.2**2
    if most_benign < 1:
        expected = expected + (mask * away).square().mean()
    torch.testing.assert_close(learned[0](Negative(), x, clean.labels), expected)
    expected = expected + F.cross_entropy(model(1 - x), torch.zeros_like(clean.labels))
    torch.testing.assert_close(learned[1](Negative(), x, clean.labels), expected)


def test_it_foretells_the_identity_the_masks_the_generator_and_the_unlearning():
    method = BTIDBF(rounds=2, epochs=5, mask_epochs=30, identity_epochs=7, trigger_epochs=11)
    assert method.search(10, 3) == 10 * (7 + 10 + 22)
    assert method.work(10, 3) == 10 * (7 + 2 * (10 + 22 + 10))


def test_unlearning_brings_the_features_back_to_those_of_the_images_as_they_were(learned):
    clean, model = halves(), Two(30.0).eval()
    x, y = clean.pixels / 255, clean.labels
    BTIDBF(**SHORT, share=0.5)._unlearn(Negative(), model, clean, RUN, 1)
    some = torch.cat([1 - x[:40], x[40:]])
    apart = (model.features(some) - model.features(x)).square().mean()
    torch.testing.assert_close(learned[0](model, x, y), F.cross_entropy(model(some), y) + apart)


def test_a_round_inverts_with_its_own_mask_and_with_the_target_of_the_first(monkeypatch):
    clean, net = task()
    masks, used, targets = torch.rand(3, 8), [], []

    def watch(self, generator, model, mask, target, *_):
        used.append(mask)
        targets.append(target)

    monkeypatch.setattr(BTIDBF, "_mask", lambda *told: masks[told[-1] - 1])
    monkeypatch.setattr(BTIDBF, "_invert", watch)
    monkeypatch.setattr(BTIDBF, "_target", lambda *_: len(targets))
    BTIDBF(**SHORT, rounds=3, epochs=0, identity_epochs=0).mend(net, clean, RUN)
    assert torch.equal(torch.stack(used), masks)
    assert targets == [None, 1, 1]
