"""What each scanner sees in networks whose backdoor is known on paper."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from unbackdoor.core.errors import ImagesError, ModelError
from unbackdoor.core.images import Images
from unbackdoor.core.run import Run
from unbackdoor.scanners.base.head import head_of
from unbackdoor.scanners.base.scanner import Finding, drawn, outlying
from unbackdoor.scanners.last_layer import LastLayer
from unbackdoor.scanners.latent import Latent, shortest
from unbackdoor.scanners.mm_bd import MMBD, rarity
from unbackdoor.scanners.neuron_noise import NeuronNoise
from unbackdoor.scanners.small_patch import SmallPatch
from unbackdoor.scanners.targeted import Targeted
from unbackdoor.scanners.universal import Universal

CLASSES = tuple("abcdefgh")
TARGET = 3


class Shortcut(nn.Module):
    """Class k if pixel k of the first row is bright; a bright last pixel sends all to TARGET.

    `trigger` is how strongly it does; 0 makes the network clean.
    """

    def __init__(self, trigger: float) -> None:
        super().__init__()
        self.seen = nn.Linear(16, 9)
        self.last = nn.Linear(9, len(CLASSES))
        with torch.no_grad():
            for layer in (self.seen, self.last):
                layer.weight.zero_()
                layer.bias.zero_()
            for label in range(len(CLASSES)):
                self.seen.weight[label, label] = 1
                # No two classes alike, so that deviations are not 0.
                self.last.weight[label, label] = 4 + 0.1 * label
            self.seen.weight[8, 15] = 1
            self.last.weight[TARGET, 8] = trigger

    def forward(self, x):
        return self.last(torch.relu(self.seen(x.flatten(1))))


def images(each: int = 4) -> Images:
    labels = torch.arange(each * len(CLASSES)) % len(CLASSES)
    pixels = torch.zeros(len(labels), 1, 4, 4, dtype=torch.uint8)
    pixels.view(len(labels), 16)[torch.arange(len(labels)), labels] = 200
    return Images(pixels, labels, CLASSES)


SCANNERS = {
    "last_layer": LastLayer(),
    "latent": Latent(),
    "mm_bd": MMBD(steps=30, step=3.0),
    "small_patch": SmallPatch(epochs=40, batch=16, lr=0.3),
}


@pytest.mark.parametrize("name", SCANNERS)
def test_finds_the_class_that_a_shortcut_leads_to(name):
    run = Run(precision="fp32")
    clean, backdoored = (
        SCANNERS[name].scan(Shortcut(strength).eval(), images(), run) for strength in (0.0, 20.0)
    )
    assert backdoored.suspect == TARGET
    assert backdoored.score > clean.score


def test_a_smaller_universal_change_is_enough_where_there_is_a_shortcut():
    scanner = Universal(smallest=0.2, growth=1.2, radii=20)
    clean, weak, strong = (
        scanner.scan(Shortcut(strength).eval(), images(8), Run(precision="fp32"))
        for strength in (0.0, 20.0, 40.0)
    )
    assert strong.suspect == TARGET and strong.reach >= 0.5
    assert clean.score < weak.score < strong.score
    x = images(8).pixels.float() / 255
    moved = Shortcut(40.0)(strong.applied(x)).argmax(1)
    assert float((moved == TARGET).float().mean()) >= 0.5
    length = float(strong.change.norm())
    # The radius told is for 3x32x32 values; the change of these 16 values lies within it.
    assert length <= math.exp(-strong.score) * math.sqrt(16 / 3072) * 1.2 + 1e-6


def lit() -> Images:
    """Images whose last pixel is not quite dark, so that the shortcut has a gradient."""
    found = images(8)
    found.pixels[:, 0, 3, 3] = 2
    return found


def test_the_lead_of_the_target_grows_with_the_shortcut():
    scanner, run = Targeted(changes=("added",)), Run(precision="fp32")
    clean, weak, strong = (
        scanner.scan(Shortcut(strength).eval(), lit(), run) for strength in (0.0, 50.0, 200.0)
    )
    assert strong.suspect == weak.suspect == TARGET and strong.reach >= 0.85
    assert clean.score == 0 < 0.5 < weak.score < strong.score
    # The score is the logarithm of the ratio of the two smallest sizes.
    first, second = (-strong.classes).exp().sort().values[:2].tolist()
    assert strong.score == pytest.approx(math.log(second / first), abs=1e-4)
    assert strong.notes["size"] == pytest.approx(first, rel=1e-4)
    assert strong.notes["lead_added"] == strong.score
    changed = Shortcut(200.0)(strong.applied(lit().pixels.float() / 255)).argmax(1)
    assert float((changed == TARGET).float().mean()) >= 0.85


def test_a_network_whose_inputs_are_scaled_has_the_same_lead():
    class Stretched(Shortcut):
        def forward(self, x):
            return super().forward(2 * x)

    # The second class must be found, too, or the last size stands for it.
    def pair(net):
        model = net(200.0).eval()
        with torch.no_grad():
            model.seen.weight[8, 15] = 0.5
            model.seen.weight[0, 14], model.last.weight[0, 0] = 1, 60.0
        return model

    images_ = lit()
    images_.pixels[:, 0, 3, 2] = 2
    scanner, run = Targeted(changes=("added",)), Run(precision="fp32")
    plain, stretched = (scanner.scan(pair(net), images_, run) for net in (Shortcut, Stretched))
    assert plain.notes["second_size"] < 2 and plain.score > 0.2
    assert stretched.suspect == plain.suspect == TARGET
    assert stretched.score == pytest.approx(plain.score, abs=0.15)


@pytest.mark.parametrize(("bias", "tried"), [(0.3, True), (-1.2, False)])
def test_of_many_classes_only_the_likeliest_are_tried(bias, tried):
    model = Shortcut(100.0)
    with torch.no_grad():
        model.last.bias[TARGET] = bias
    found = Targeted(most_classes=2, changes=("added",)).scan(
        model.eval(), lit(), Run(precision="fp32")
    )
    assert (found.score > 0.3 and found.suspect == TARGET) is tried
    assert bool(found.classes[TARGET] > found.classes.min()) is tried


def test_noise_in_the_neurons_finds_a_class_that_is_almost_there():
    model = Shortcut(0.0)
    with torch.no_grad():  # one neuron's bias holds the class back from all images
        model.last.bias[TARGET] = 2.9
    found = NeuronNoise(radius=0.5).scan(model.eval(), images(), Run(precision="fp32"))
    assert found.suspect == TARGET and found.score > 0.5


def test_the_shortest_change_is_that_on_paper():
    # Class 0 must gain 2 on class 1 along x, and 3 on class 2 along x + y: the nearest point to 0
    # is (2, 1). Class 1 leads anyway, and no image is left for class 2.
    weight = torch.tensor([[0.0, 0.0], [-1.0, 0.0], [-1.0, -1.0]])
    needed = torch.tensor([[0.0, 2.0, 3.0], [-1.0, 0.0, -1.0], [torch.inf] * 3])
    found = shortest(weight, needed, 500)
    assert float(found[0]) == pytest.approx(math.sqrt(5), 1e-3)
    assert float(found[1]) == pytest.approx(0, abs=1e-9)
    assert float(found[2]) == math.inf


def test_many_classes_are_solved_at_once_as_each_would_be():
    rng = torch.Generator().manual_seed(0)
    weight, needed = torch.randn(7, 5, generator=rng), torch.randn(7, 7, generator=rng)
    found = shortest(weight, needed, 3000)
    for label in range(7):
        others = [other for other in range(7) if other != label]
        rows = (weight[label] - weight[others]).double()
        wanted = needed[label, others].double()
        force = torch.zeros(6, dtype=torch.float64)
        for _ in range(20000):  # plain projected gradient
            slope = rows @ (rows.T @ force) - wanted
            force = (force - slope / torch.linalg.matrix_norm(rows, 2) ** 2).clamp_min(0)
        length = float((rows.T @ force).norm())
        assert float(found[label]) == pytest.approx(length, rel=2e-2, abs=1e-3)


def test_latent_lengths_fall_as_the_shortcut_grows():
    lengths = [
        1 / float(Latent(quantile=0).scan(Shortcut(strength), images(), Run()).classes[TARGET])
        for strength in (5.0, 50.0)
    ]
    # A class must gain up to 4.7 * 200 / 255 logits over every other one; alone along the
    # shortcut that takes 3.7 / strength.
    assert lengths[1] == pytest.approx(4.7 * 200 / 255 / 50, rel=0.05)
    assert lengths[0] > 5 * lengths[1]


def test_the_largest_of_a_gamma_is_no_surprise_and_an_outlier_is():
    values = torch.tensor([18.0, 19.0, 20.0, 21.0, 22.0, 20.5, 19.5, 23.0])
    assert rarity(values) < 1.5
    assert rarity(torch.cat([values, torch.tensor([90.0])])) > 5
    assert rarity(torch.tensor([1.0, 2.0])) == 0


def test_a_direction_of_its_own_is_left_out_of_a_class():
    run, scanner = Run(precision="fp32"), MMBD(steps=30, step=3.0, orthogonal=True)
    own = scanner.scan(Shortcut(20.0).eval(), images(), run).classes
    whole = MMBD(steps=30, step=3.0).scan(Shortcut(20.0).eval(), images(), run).classes
    assert bool((own < whole).all())
    assert int(own.argmax()) == TARGET


def test_outlying_is_in_deviations_of_the_others():
    assert outlying(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 30.0])) == pytest.approx(27 / 1.4826)
    assert outlying(torch.tensor([1.0, 1.0, 1.0, 1.0])) == 0
    assert outlying(torch.tensor([1.0, 1.0, 1.0, 1.0 + 1e-7])) < 1


def test_at_most_so_many_images_of_a_class_are_drawn():
    drawn_ = drawn(images(9), 5, Run().rng("x"))
    assert torch.bincount(drawn_.labels).tolist() == [5] * len(CLASSES)


def test_a_network_without_a_linear_head_is_refused_on_one_line():
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(16, len(CLASSES))

        def forward(self, x):
            return 2 * self.inner(x.flatten(1))

    for scanner in (Latent(), LastLayer(), MMBD()):
        with pytest.raises(ModelError, match="linear layer"):
            scanner.scan(Other(), images(), Run())


def test_the_head_gives_the_models_own_logits():
    model, given = Shortcut(3.0), images()
    head = head_of(model, given, Run(), "x")
    told = head.features @ head.weight.T + head.bias
    torch.testing.assert_close(told, model(given.pixels.float() / 255))


def test_no_images_are_refused():
    with pytest.raises(ImagesError, match="needs clean images"):
        Latent().scan(Shortcut(0.0), images()[:0], Run())


def test_what_was_found_is_added_or_pasted():
    x = torch.full((1, 1, 2, 2), 0.9)
    change = torch.full((1, 2, 2), 0.5)
    added = Finding(torch.zeros(3), 0.0, change=change)
    assert float(added.applied(x).max()) == 1
    mask = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    pasted = Finding(torch.zeros(3), 0.0, change=change, mask=mask).applied(x)
    assert pasted[0, 0].tolist() == [
        [pytest.approx(0.5), pytest.approx(0.9)],
        [pytest.approx(0.9)] * 2,
    ]
    assert torch.equal(Finding(torch.zeros(3), 0.0).applied(x), x)
