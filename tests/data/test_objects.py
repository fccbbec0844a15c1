"""Images from Python: whatever holds them, just those it holds, with the labels it gives."""

import types

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils import data as torch_data

import unbackdoor
from unbackdoor import data
from unbackdoor.core.errors import ImagesError, ParameterError, UnbackdoorWarning
from unbackdoor.core.images import Images, Triggered
from unbackdoor.core.spec import Spec
from unbackdoor.models import Normalized

PIXELS = torch.arange(4 * 3 * 4 * 4, dtype=torch.uint8).view(4, 3, 4, 4)
LABELS = torch.tensor([1, 0, 2, 1])
WHOLE = torch_data.TensorDataset(PIXELS, LABELS)


class Stream(torch_data.IterableDataset):
    def __iter__(self):
        yield from zip(PIXELS, LABELS, strict=True)


def shown(index):
    return Image.fromarray(PIXELS[index].permute(1, 2, 0).numpy())


def pictures():
    return [(shown(index), int(label)) for index, label in enumerate(LABELS)]


@pytest.mark.parametrize(
    "made",
    [
        lambda: WHOLE,
        lambda: torch_data.TensorDataset(PIXELS.float() / 255, LABELS),
        lambda: torch_data.DataLoader(WHOLE, batch_size=3, shuffle=True),
        lambda: list(torch_data.DataLoader(WHOLE, batch_size=3)),
        Stream,
        lambda: torch_data.DataLoader(Stream(), batch_size=3),
        lambda: (PIXELS.permute(0, 2, 3, 1).numpy(), LABELS.numpy()),
        lambda: [PIXELS.numpy(), LABELS.numpy()],
        lambda: (PIXELS.numpy() * 1.0, LABELS.numpy() * 1.0),
        lambda: (PIXELS.float() / 255, np.eye(3)[LABELS]),
        lambda: {"image": PIXELS, "label": LABELS},
        lambda: [{"image": picture, "label": label} for picture, label in pictures()],
        lambda: [(picture, ["a", "b", "c"][label]) for picture, label in pictures()],
        lambda: iter(pictures()),
        lambda: Images(PIXELS, LABELS, ("0", "1", "2")),
        pictures,
    ],
)
def test_whatever_holds_images_is_images(made):
    found = data.of_objects(made(), classes=["a", "b", "c"])
    assert torch.equal(found.pixels, PIXELS) and found.labels.tolist() == LABELS.tolist()
    assert found.classes == ("a", "b", "c")


@pytest.mark.parametrize(
    "made",
    [
        lambda: torch_data.Subset(WHOLE, [1, 2]),
        lambda: torch_data.DataLoader(torch_data.Subset(WHOLE, [1, 2])),
        lambda: torch_data.DataLoader(WHOLE, sampler=torch_data.SubsetRandomSampler([2, 1])),
        lambda: torch_data.DataLoader(WHOLE, batch_sampler=[[2], [1]]),
    ],
)
def test_a_part_of_a_data_set_is_no_more_than_that_part(made):
    found = data.of_objects(made())
    assert torch.equal(found.pixels, PIXELS[1:3]) and found.labels.tolist() == [0, 2]


def test_paths_are_pictures(tmp_path):
    shown(0).save(tmp_path / "a.png")
    found = data.of_objects([(tmp_path / "a.png", 0), (str(tmp_path / "a.png"), 1)])
    assert torch.equal(found.pixels[1], PIXELS[0])


def test_pictures_of_several_sizes_become_one_and_this_is_said():
    several = [*pictures(), (Image.new("L", (2, 6), 7), 0)]
    with pytest.warns(UnbackdoorWarning, match="1 of 5 images resized from 6x2 to 4x4"):
        found = data.of_objects(several)
    assert torch.equal(found.pixels[:4], PIXELS)
    assert found.pixels[4].unique().tolist() == [7]


class Named(torch_data.TensorDataset):
    classes = ("cat", "dog", "eel")


def test_labels_go_by_the_names_that_a_data_set_tells():
    named = Named(PIXELS, LABELS)
    assert data.of_objects(named).classes == Named.classes
    found = data.of_objects(named, classes=["eel", "dog", "cat"])
    assert found.labels.tolist() == [1, 2, 0, 1]
    assert data.of_objects(torch_data.Subset(named, [0]), classes=["eel", "dog", "cat"]).labels == 1
    with pytest.raises(ImagesError, match=r"has 3 classes .* the model 4"):
        data.of_objects(named, classes=["0", "1", "2", "3"])
    named.target_transform = int
    assert data.of_objects(named, classes=["eel", "dog", "cat"]).labels.tolist() == [1, 0, 2, 1]


class Rows(list):
    pass


def test_the_class_names_are_those_of_the_column_that_is_taken():
    rows = Rows([{"img": PIXELS[0], "fine_label": 2, "coarse_label": 1}])
    rows.features = {  # as a Hugging Face data set tells them
        "fine_label": types.SimpleNamespace(names=["cat", "dog", "eel"]),
        "coarse_label": types.SimpleNamespace(names=["land", "water"]),
    }
    assert data.of_objects(rows).classes == ("cat", "dog", "eel")
    coarse = data.of_objects(rows, columns=("img", "coarse_label"))
    assert coarse.classes == ("land", "water") and coarse.labels.tolist() == [1]


def test_numbers_in_the_order_of_text_are_said():
    named = Named(PIXELS, LABELS)
    named.classes = sorted(map(str, range(11)))
    with pytest.warns(UnbackdoorWarning, match="label 2 is called '10'"):
        found = data.of_objects(named, classes=[str(label) for label in range(11)])
    assert found.labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda: 3, "images must be Images"),
        (lambda: None, "images must be Images"),
        (lambda: [], "holds no images"),
        (lambda: torch_data.TensorDataset(PIXELS - 130.0, LABELS), "take the normalisation"),
        (lambda: torch_data.TensorDataset(PIXELS, LABELS + 0.5), "whole numbers"),
        (lambda: (PIXELS.numpy(), LABELS[:1].numpy()), "4 images, but 1 labels"),
        (lambda: [(PIXELS[0, :2], 0)], "of 1 or 3 channels"),
        (lambda: [(Image.fromarray(np.full((4, 4), 999, np.uint16)), 0)], "more than 8 bits"),
        (lambda: [shown(0)], r"rows must be \(picture, label\)"),
        (lambda: [(PIXELS[0], object())], "the labels of the list|whole numbers"),
        (lambda: [{"pic": PIXELS[0], "label": 0}], "say which, columns="),
        (lambda: [{"image": PIXELS[0], "pixel_values": PIXELS[0], "label": 0}], "'image' or 'pix"),
        (lambda: {"x": PIXELS, "y": LABELS, "label": LABELS}, "labels may be 'label' or 'y': say"),
        (lambda: {"train": WHOLE, "test": WHOLE}, "a dict of train, test: give one part"),
    ],
)
def test_other_objects_are_one_line(made, told):
    with pytest.raises(ImagesError, match=told) as caught:
        data.of_objects(made())
    assert "\n" not in str(caught.value)


def test_a_stream_without_end_ends(monkeypatch):
    monkeypatch.setattr("unbackdoor.data._objects.MOST_BYTES", 1000)
    with pytest.raises(ImagesError, match="gives more than"):
        data.of_objects((PIXELS[0], 0) for _ in iter(int, 1))


class First(torch.nn.Module):
    """Answers the class that the first pixel's level is."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 1, 1)

    def forward(self, x):
        assert x.shape[2:] == (4, 4)
        level = (x[:, 0, 0, 0] * 255).round().long().clamp(max=2)
        return torch.nn.functional.one_hot(level, 3) * 9.0 + 0 * self.conv.weight.sum()


def test_a_model_sees_images_in_its_size_and_with_its_classes():
    spec = Spec("own", ("cat", "dog", "eel"), (0.0,) * 3, (1.0,) * 3, size=(4, 4))
    model = Normalized(First(), spec)
    pixels = torch.tensor([0, 1, 2], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 8, 8)
    given = Images(pixels.contiguous(), torch.tensor([2, 1, 0]), ("eel", "dog", "cat"))
    with pytest.warns(UnbackdoorWarning, match="resized from 8x8 to 4x4"):
        score = unbackdoor.evaluate(model, given, Triggered(given, torch.tensor([1, 2, 1])))
    assert score.acc.value == 1 and score.ra.value == 1
    assert score.asr.value == 0
    for odd in (3, given):
        with pytest.raises(ParameterError, match="what load_triggered gives"):
            unbackdoor.evaluate(model, triggered=odd)


@pytest.mark.parametrize(
    "asked",
    [
        {"size": "32"}, {"size": True}, {"size": -1}, {"size": 10**9}, {"size": (1, 2, 3)},
        {"classes": 0}, {"classes": ["a", "a"]}, {"classes": []}, {"classes": True},
        {"columns": "image"}, {"columns": ("a",)}, {"channels": 2},
    ],
)  # fmt: skip
def test_arguments_that_are_none_are_refused(asked):
    with pytest.raises(ParameterError):
        unbackdoor.load_images(WHOLE, **asked)


def test_triggered_images_may_be_objects_and_targets_are_no_flags():
    found = unbackdoor.load_triggered(WHOLE, 1)
    assert found.images.labels.tolist() == [0, 2] and found.goals.tolist() == [1, 1]
    with pytest.raises(ParameterError, match="target must be"):
        unbackdoor.load_triggered(WHOLE, True)
