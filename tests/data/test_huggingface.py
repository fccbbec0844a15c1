"""Data sets of the library `datasets` itself, in the forms that people hand them over."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils import data as torch_data

import unbackdoor
from unbackdoor.core.errors import ImagesError

datasets = pytest.importorskip("datasets")
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
LABELS = [0, 1, 2, 0, 1, 2]
NAMES = ("cat", "dog", "eel")
WHOLE = datasets.Dataset.from_dict(
    {"image": [Image.fromarray(pixels) for pixels in PIXELS], "label": LABELS},
    features=datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))}
    ),
)


@pytest.mark.parametrize(
    "made",
    [
        lambda: WHOLE,
        WHOLE.to_iterable_dataset,
        lambda: WHOLE.with_format("torch"),
        lambda: WHOLE.with_format("numpy"),
        lambda: WHOLE.cast_column("image", datasets.Image(decode=False)),
        lambda: torch_data.DataLoader(WHOLE.with_format("torch"), batch_size=4),
    ],
)
def test_every_form_gives_its_images_labels_and_names(made):
    found = unbackdoor.load_images(made())
    assert torch.equal(found.pixels, torch.from_numpy(PIXELS).permute(0, 3, 1, 2))
    assert found.labels.tolist() == LABELS and found.classes == NAMES


def test_labels_follow_the_model_s_names_and_a_part_stays_a_part():
    assert unbackdoor.load_images(WHOLE, classes=NAMES[::-1]).labels.tolist() == [2, 1, 0, 2, 1, 0]
    found = unbackdoor.load_images(WHOLE.select([4, 2]))
    assert found.labels.tolist() == [1, 2] and found.classes == NAMES


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda: datasets.DatasetDict(train=WHOLE, test=WHOLE), "train, test: give one part"),
        (lambda: WHOLE.remove_columns("label"), "an image and a label"),
        (
            lambda: WHOLE.with_transform(lambda rows: {**rows, "pixel_values": rows["image"]}),
            "'image' or 'pixel_values'",
        ),
    ],
)
def test_what_is_unclear_is_one_line(made, told):
    with pytest.raises(ImagesError, match=told) as caught:
        unbackdoor.load_images(made())
    assert "\n" not in str(caught.value)
