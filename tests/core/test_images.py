"""Images: uint8 at rest, float in flight; drawing, splitting, batches."""

from __future__ import annotations

import pytest
import torch

from unbackdoor.core.errors import ImagesError
from unbackdoor.core.images import Images, Triggered, to_float, to_uint8


def numbered(n: int) -> Images:
    """Image i holds the value i and is of class i % 3."""
    pixels = torch.arange(n, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 4).contiguous()
    return Images(pixels, torch.arange(n) % 3, ("a", "b", "c"))


def ids(images: Images) -> list[int]:
    values = images.pixels[:, 0, 0, 0].tolist()
    assert images.labels.tolist() == [value % 3 for value in values]  # labels travel along
    return values


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_level_survives_the_way_there_and_back():
    levels = torch.arange(256, dtype=torch.uint8)
    x = to_float(levels)
    assert x.dtype == torch.float32 and x[0] == 0 and x[255] == 1
    assert torch.equal(to_uint8(x), levels)


def test_to_uint8_clips_and_rounds_to_the_nearest():
    x = torch.tensor([-0.5, 1.5, 0.6 / 255, 0.4 / 255, 254.6 / 255])
    before = x.clone()
    assert to_uint8(x).tolist() == [0, 255, 1, 0, 255]
    assert torch.equal(x, before)


def test_split_is_a_partition_drawn_by_the_generator():
    drawn, rest = numbered(20).split(6, rng())
    assert len(drawn) == 6 and len(rest) == 14
    assert sorted(ids(drawn) + ids(rest)) == list(range(20))
    assert ids(rest) == sorted(ids(rest))
    assert ids(drawn) != sorted(ids(drawn))
    again, _ = numbered(20).split(6, rng())
    other, _ = numbered(20).split(6, rng(1))
    assert ids(again) == ids(drawn) != ids(other)


def test_sample_draws_without_replacement():
    assert len(set(ids(numbered(20).sample(6, rng())))) == 6
    assert sorted(ids(numbered(5).sample(9, rng()))) == list(range(5))


def test_batches_hold_every_image_once_in_order_or_shuffled():
    plain = list(numbered(7).batches(3))
    assert [len(x) for x, _ in plain] == [3, 2, 2]
    assert torch.equal(torch.cat([y for _, y in plain]), numbered(7).labels)
    x = torch.cat([x for x, _ in plain])
    assert x.dtype == torch.float32 and torch.equal(x, numbered(7).pixels.float() / 255)

    mixed = [(x * 255).round()[:, 0, 0, 0].int().tolist() for x, _ in numbered(7).batches(3, rng())]
    flat = [value for batch in mixed for value in batch]
    assert flat != sorted(flat) and sorted(flat) == list(range(7))
    for x, y in numbered(7).batches(3, rng()):
        assert ((x[:, 0, 0, 0] * 255).round().int() % 3).tolist() == y.tolist()


def test_batches_leave_the_pixels_alone():
    images = numbered(4)
    for x, _ in images.batches(2):
        x.zero_()
    assert ids(images) == [0, 1, 2, 3]


def test_indices_and_shape():
    images = numbered(6)
    assert ids(images[1:3]) == [1, 2] and ids(images[torch.tensor([4, 0])]) == [4, 0]
    assert ids(images[images.labels == 2]) == [2, 5]
    assert images.shape == (3, 2, 4)


@pytest.mark.parametrize(
    ("pixels", "labels", "words"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64), "uint8"),
        (
            torch.zeros(2, 4, 4, dtype=torch.uint8),
            torch.zeros(2, dtype=torch.int64),
            r"\[2, 4, 4\]",
        ),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int32), "int64"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), r"\[3\]"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 2]), "0 to 2.*2 classes"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([-1, 1]), "-1 to 1"),
    ],
)
def test_what_does_not_fit_is_refused(pixels, labels, words):
    with pytest.raises(ImagesError, match=words):
        Images(pixels, labels, ("a", "b"))


def test_counted_leaves_out_images_already_of_the_goal_class():
    stamped = Triggered(numbered(6), torch.tensor([0, 0, 0, 1, 1, 1]))  # labels 0 1 2 0 1 2
    counted = stamped.counted()
    assert ids(counted.images) == [1, 2, 3, 5]
    assert counted.goals.tolist() == [0, 0, 1, 1]
