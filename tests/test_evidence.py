"""What is said of clean images before any work, from the model's own answers to them."""

import warnings

import pytest
import torch
from PIL import Image

import unbackdoor
from unbackdoor.core.errors import ImagesError, ModelError, UnbackdoorWarning
from unbackdoor.core.images import Images
from unbackdoor.core.run import Run
from unbackdoor.core.spec import Spec
from unbackdoor.evidence import read_rightly, warn_thin
from unbackdoor.models import Normalized

COUNT = 12


class Brightness(torch.nn.Module):
    """Answers the class that is the first pixel's level."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        level = (x[:, 0, 0, 0] * 255).round().long().clamp(max=COUNT - 1)
        return torch.nn.functional.one_hot(level, COUNT) * 9.0 + 0 * self.weight


NAMES = tuple(str(label) for label in range(COUNT))
MODEL = Normalized(Brightness(), Spec("own", NAMES, (0.0,), (1.0,)))


def images(labels, levels=None):
    levels = labels if levels is None else levels
    pixels = levels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    return Images(pixels, labels, NAMES)


LABELS = torch.arange(120) % COUNT
PLACES = torch.tensor([sorted(NAMES).index(name) for name in NAMES])


def test_of_two_readings_the_one_the_model_agrees_with_is_taken_and_both_are_said():
    given = images(LABELS, PLACES[LABELS])  # a model whose classes are in the order of text
    with pytest.warns(UnbackdoorWarning, match=r"numbers .*as text .*100\.0%.*taken sorted"):
        found = read_rightly(MODEL, given, "here", Run(), as_text=PLACES)
    assert torch.equal(found.labels, PLACES[LABELS])
    with pytest.warns(UnbackdoorWarning, match=r"accuracy is 100\.0%.*taken by their numbers"):
        found = read_rightly(MODEL, images(LABELS), "here", Run(), as_text=PLACES)
    assert torch.equal(found.labels, LABELS)


def test_a_model_near_chance_is_a_warning_and_a_good_one_is_not():
    shifted = images((LABELS + 1) % COUNT, LABELS)
    with pytest.warns(UnbackdoorWarning, match=r"0\.0% of 120 images, near the chance of 8\.3%"):
        read_rightly(MODEL, shifted, "here", Run())
    read_rightly(MODEL, images(LABELS), "here", Run())  # warnings are errors here


class Fixed(torch.nn.Module):
    """Answers class 0 for images of 32 x 32, else what the first pixel's level is."""

    def __init__(self, classes):
        super().__init__()
        self.classes = classes
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        level = (x[:, 0, 0, 0] * 255).round().long().clamp(max=self.classes - 1)
        level = level if x.shape[-1] == 32 else 0 * level
        return torch.nn.functional.one_hot(level, self.classes) * 9.0 + 0 * self.weight


@pytest.mark.parametrize(("right", "warned"), [(100, False), (80, False), (55, True), (45, True)])
def test_of_two_classes_a_good_model_is_not_near_chance(right, warned):
    names = ("a", "b")
    labels = torch.arange(100) % 2
    levels = torch.cat([labels[:right], 1 - labels[right:]])
    given = Images(levels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 32, 32), labels, names)
    model = Normalized(Fixed(2), Spec("own", names, (0.0,), (1.0,)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_rightly(model, given, "here", Run())
    assert any("near the chance of 50.0%" in str(one.message) for one in caught) == warned


def test_a_guessed_size_that_the_model_contradicts_is_refused_and_the_other_is_told():
    pixels = LABELS.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 48, 48)
    model = Normalized(Fixed(COUNT), Spec("own", NAMES, (0.0,), (1.0,)))
    given = Images(pixels, LABELS, NAMES)
    with pytest.raises(ImagesError, match=r"8\.3% at .* 48x48, but 100\.0% at 32x32: .*size 32"):
        read_rightly(model, given, "here", Run(), guessed=True)
    with pytest.warns(UnbackdoorWarning, match="near the chance"):
        read_rightly(model, given, "here", Run())


class Late(Fixed):
    """Answers the first pixel's level for images of 32 x 32, for others that of two levels only."""

    def forward(self, x):
        level = (x[:, 0, 0, 0] * 255).round().long()
        right = (level == 4) | (level == 5) | (x.shape[-1] == 32)
        level = torch.where(right, level, (level + 1) % self.classes)
        return torch.nn.functional.one_hot(level, self.classes) * 9.0 + 0 * self.weight


def test_where_the_labels_go_by_text_another_size_is_judged_by_them():
    pixels = PLACES[LABELS].to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 48, 48)
    model = Normalized(Late(COUNT), Spec("own", NAMES, (0.0,), (1.0,)))
    given = Images(pixels, LABELS, NAMES)
    with (
        pytest.warns(UnbackdoorWarning, match="sorted as text"),
        pytest.raises(ImagesError, match=r"16\.7% at .* 48x48, but 100\.0% at 32x32"),
    ):
        read_rightly(model, given, "here", Run(), as_text=PLACES, guessed=True)


@pytest.mark.filterwarnings("always::unbackdoor.core.errors.UnbackdoorWarning")
def test_a_repair_from_python_says_it_too(tmp_path):
    shifted = images((LABELS + 1) % COUNT, LABELS)
    with pytest.warns(UnbackdoorWarning, match=r"on the clean images is 0\.0% of 120 images, near"):
        unbackdoor.repair(MODEL, shifted, "fine_tuning", epochs=1)
    for label, level in zip(LABELS.tolist(), PLACES[LABELS].tolist(), strict=True):
        (tmp_path / NAMES[label]).mkdir(exist_ok=True)
        file = tmp_path / NAMES[label] / f"{len(list((tmp_path / NAMES[label]).iterdir()))}.png"
        Image.new("L", (4, 4), level).save(file)
    with pytest.warns(UnbackdoorWarning) as told:
        unbackdoor.repair(MODEL, tmp_path, "fine_tuning", epochs=1)
    said = "\n".join(str(each.message) for each in told)
    assert "4x4, the most common one in" in said and "is a guess" in said
    assert "taken sorted as text" in said and "near the chance" not in said


@pytest.mark.parametrize(("right", "warned"), [(0, True), (2, False), (30, False)])
def test_of_few_images_nearly_all_must_be_told_wrongly(right, warned):
    labels = LABELS[:30]
    wrong = (labels + 1) % COUNT
    given = images(torch.cat([labels[:right], wrong[right:]]), labels)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_rightly(MODEL, given, "here", Run())
    assert any("of 30 images, near the chance" in str(one.message) for one in caught) == warned


def test_a_repair_from_python_says_that_classes_are_thin():
    thin = images(LABELS[: 19 * COUNT % 120])
    with pytest.warns(UnbackdoorWarning) as told:
        unbackdoor.repair(MODEL, thin, "fine_tuning", epochs=1)
    said = [str(each.message) for each in told]
    assert (
        sum("12 of 12 classes have fewer than 20 clean images (fewest" in each for each in said)
        == 1
    )


class Holder(Brightness):
    """Keeps a tensor of its last pass."""

    def forward(self, x):
        self.last = super().forward(x)
        return self.last


def test_a_model_that_cannot_be_copied_is_one_line():
    holder = Holder()
    holder(torch.zeros(1, 1, 4, 4))
    with pytest.raises(ModelError, match="Holder cannot be copied"):
        read_rightly(holder, images(LABELS), "here", Run())


def test_classes_of_few_images_are_thin_evidence():
    labels = torch.arange(COUNT * 20) % COUNT
    warn_thin(images(labels))  # warnings are errors here
    with pytest.warns(UnbackdoorWarning, match=r"1 of 12 classes .* \(fewest: 3, 19\)"):
        warn_thin(images(torch.cat([labels[:3], labels[4:]])))
    with pytest.warns(UnbackdoorWarning, match=r"20 clean images after a loss \(fewest"):
        warn_thin(images(LABELS), " after a loss")


def normed(mean, var):
    net = torch.nn.Sequential(torch.nn.BatchNorm2d(1), torch.nn.Flatten(), torch.nn.Linear(16, 2))
    net[0].running_mean.fill_(mean)
    net[0].running_var.fill_(var)
    return Normalized(net, Spec("own", ("a", "b"), (0.0,), (1.0,))).eval()


@pytest.mark.parametrize(
    ("mean", "var", "said"), [(0.5, 1 / 12, 0), (2.0, 0.3, 1), (0.5, 9, 1), (0.5, 0, 0)]
)
def test_images_unlike_those_of_the_training_are_said(mean, var, said):
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (100, 1, 4, 4), generator=rng, dtype=torch.uint8)
    model, noise = normed(mean, var), Images(pixels, torch.zeros(100).long(), ("a", "b"))
    noise.labels[:] = model(noise.pixels / 255).argmax(1)  # near chance is another warning
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        read_rightly(model, noise, "here", Run())
    told = [str(each.message) for each in found]
    assert sum(text.startswith("here: the images are unlike") for text in told) == said, told
