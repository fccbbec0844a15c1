"""What the command line says of images before any work, and how a fault of ours ends."""

import re
import warnings

import pytest
import torch

from unbackdoor.cli import options
from unbackdoor.cli.evidence import read_rightly, warn_thin
from unbackdoor.core.errors import ParameterError, UnbackdoorWarning, UnknownNameError
from unbackdoor.core.images import Images
from unbackdoor.core.run import Run
from unbackdoor.core.spec import Spec
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
        found = read_rightly(MODEL, given, "here", PLACES, Run())
    assert torch.equal(found.labels, PLACES[LABELS])
    with pytest.warns(UnbackdoorWarning, match=r"accuracy is 100\.0%.*taken by their numbers"):
        found = read_rightly(MODEL, images(LABELS), "here", PLACES, Run())
    assert torch.equal(found.labels, LABELS)


def test_a_model_near_chance_is_a_warning_and_a_good_one_is_not():
    shifted = images((LABELS + 1) % COUNT, LABELS)
    with pytest.warns(UnbackdoorWarning, match=r"0\.0% of 120 images, near the chance of 8\.3%"):
        read_rightly(MODEL, shifted, "here", None, Run())
    read_rightly(MODEL, images(LABELS), "here", None, Run())  # warnings are errors here


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
        read_rightly(model, given, "here", None, Run())
    assert any("near the chance of 50.0%" in str(one.message) for one in caught) == warned


def test_where_the_size_is_a_guess_the_one_that_the_model_agrees_with_is_said():
    pixels = LABELS.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 48, 48)
    model = Normalized(Fixed(COUNT), Spec("own", NAMES, (0.0,), (1.0,)))
    given = Images(pixels, LABELS, NAMES)
    with pytest.warns(UnbackdoorWarning, match=r"8\.3% .* but 100\.0% if they are 32x32: .*32\)"):
        read_rightly(model, given, "here", None, Run(), guessed=True)
    with pytest.warns(UnbackdoorWarning, match="near the chance"):
        read_rightly(model, given, "here", None, Run())


def test_classes_of_few_images_are_thin_evidence():
    labels = torch.arange(COUNT * 20) % COUNT
    warn_thin(images(labels))  # warnings are errors here
    with pytest.warns(UnbackdoorWarning, match=r"1 of 12 classes .* \(fewest: 3, 19\)"):
        warn_thin(images(torch.cat([labels[:3], labels[4:]])))


def normed(mean, var):
    net = torch.nn.Sequential(torch.nn.BatchNorm2d(1), torch.nn.Flatten(), torch.nn.Linear(16, 2))
    net[0].running_mean.fill_(mean)
    net[0].running_var.fill_(var)
    return Normalized(net, Spec("own", ("a", "b"), (0.0,), (1.0,)))


@pytest.mark.parametrize(("mean", "var", "said"), [(0.5, 1 / 12, 0), (2.0, 0.3, 1), (0.5, 9, 1)])
def test_images_unlike_those_of_the_training_are_said(mean, var, said):
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (100, 1, 4, 4), generator=rng, dtype=torch.uint8)
    model, noise = normed(mean, var), Images(pixels, torch.zeros(100).long(), ("a", "b"))
    noise.labels[:] = model(noise.pixels / 255).argmax(1)  # near chance is another warning
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        read_rightly(model, noise, "here", None, Run())
    told = [str(each.message) for each in found]
    assert sum(text.startswith("here: the images are unlike") for text in told) == said, told


@pytest.mark.parametrize(
    ("text", "size"), [("32", (32, 32)), ("24x48", (24, 48)), ("24X48", (24, 48)), (None, None)]
)
def test_a_size_is_one_number_or_two(text, size):
    assert options.size(text) == size


@pytest.mark.parametrize("text", ["0", "a", "3x4x5", "-3", "3x0", ""])
def test_no_other_size(text):
    with pytest.raises(ParameterError, match="--size"):
        options.size(text)


def test_columns_are_named_both():
    assert options.columns("label=y,image=x") == ("x", "y")
    for text in ("image=x", "image=x,labels=y", "x,y"):
        with pytest.raises(ParameterError, match="--columns"):
            options.columns(text)


def test_a_target_with_two_meanings_is_refused():
    assert options.goal("2", ("a", "b", "c")) == 2 and options.goal("b", ("a", "b")) == 1
    assert options.goal("10", ("9", "10")) == 1
    assert options.goal("1", ("0", "1", "2")) == 1
    with pytest.raises(ParameterError, match="name of class 1, and the number of the class '4'"):
        options.goal("2", ("3", "2", "4"))
    with pytest.raises(UnknownNameError):
        options.goal("x", ("a", "b"))


def test_the_size_is_told_kept_and_a_guess_is_said(run, tiny, tmp_path):
    from safetensors import safe_open

    bare = tmp_path / "bare.pt"
    from unbackdoor.checkpoints import checkpoint

    torch.save(checkpoint.load(tiny.model).net.state_dict(), bare)
    told = ("--arch", "preact_resnet18", "--classes", 3, "--mean", ".5,.5,.5", "--std", ".2,.2,.2")
    done = run("evaluate", bare, *told, "--test", tiny.test)
    assert done.code == 0 and "16x16, the most common one in" in done.err and "guess" in done.err
    done = run("evaluate", bare, *told, "--test", tiny.test, "--size", 16)
    assert done.code == 0 and "guess" not in done.err
    out = tmp_path / "out.safetensors"
    assert run("convert", bare, out, *told, "--size", "16").code == 0
    with safe_open(out, framework="pt") as file:
        assert file.metadata()["size"] == "[16, 16]"
    done = run("evaluate", out, "--test", tiny.test)
    assert done.code == 0 and "guess" not in done.err


def test_means_of_0_to_255_are_refused(run, tiny):
    scale = ("--mean", "127.5,127.5,127.5", "--std", "60,60,60")
    done = run("evaluate", tiny.model, "--test", tiny.test, *scale)
    assert done.code == 2 and "divide by 255: [0.5, 0.5, 0.5]" in done.err


def test_a_fault_of_ours_is_one_line_with_its_own_code(run, tiny, monkeypatch, tmp_path):
    from unbackdoor import api

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def broken(*_, **__):
        raise KeyError("\x1b[31mred")

    monkeypatch.setattr(api, "evaluate", broken)
    done = run("evaluate", tiny.model, "--test", tiny.test)
    assert done.code == 70 and len(done.err.splitlines()) == 1 and "\x1b" not in done.err
    (path,) = re.findall(r"details are in (\S+)", done.err)
    with open(path) as file:  # noqa: PTH123
        assert "Traceback" in file.read()
