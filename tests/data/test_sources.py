import numpy as np
import pytest
import torch

from unbackdoor import data
from unbackdoor.core.errors import ImagesError, ParameterError, UnbackdoorWarning, UnknownNameError


def test_digits_and_their_two_parts():
    whole, train, test = (data.open_images(f"digits{part}") for part in ("", ":train", ":test"))
    assert whole.shape == (3, 32, 32) and whole.classes == tuple("0123456789")
    assert len(whole) == 1797 and len(train) + len(test) == 1797
    assert torch.equal(test.labels.bincount(), whole.labels.bincount() // 4)
    kept = {image.numpy().tobytes() for image in train.pixels}
    assert not any(image.numpy().tobytes() in kept for image in test.pixels)
    assert whole.pixels.max() == 255 and whole.pixels.min() == 0


def test_mirrored_digits_and_signs_are_others():
    named = ("digits", "digits:test", "gtsrb", "gtsrb:train")
    assert not any(data.mirrored(name) for name in named)
    assert all(data.mirrored(name) for name in ("cifar10", "cifar10:test", "x/gtsrb.parquet", 3))


def test_images_carry_whether_they_may_be_mirrored():
    digits = data.open_images("digits:test")
    again = data.of_objects(digits, channels=1)
    assert not any(data.mirrored(images) for images in (digits, digits[:20], again))
    assert not data.mirrored(data.resized(digits, (16, 16)))
    plain = data.of_objects((digits.pixels.numpy(), digits.labels.numpy()))
    assert data.mirrored(plain) and data.mirrored(plain[:20])


def test_gray_digits():
    one, three = data.open_images("digits:test", channels=1), data.open_images("digits:test")
    assert one.shape == (1, 32, 32)
    assert torch.equal(one.pixels, three.pixels[:, :1])
    with pytest.raises(ParameterError, match="1 or 3"):
        data.open_images("digits", channels=2)


def test_another_size_is_said():
    with pytest.warns(UnbackdoorWarning, match="445 of 445 images resized from 32x32 to 16x16"):
        assert data.open_images("digits:test", size=(16, 16)).shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("source", "error", "told"),
    [
        ("digit", UnknownNameError, "did you mean 'digits'"),
        ("digits:tset", ImagesError, "it has train, test"),
        ("none.npz", ImagesError, "no such file"),
        ("no/folder", ImagesError, "no such file"),
        ("", ImagesError, "named"),
    ],
)
def test_sources_that_are_not_there(source, error, told):
    with pytest.raises(error, match=told):
        data.open_images(source)


@pytest.mark.parametrize("source", ["cifar10", "cifar100:test", "gtsrb"])
def test_nothing_is_downloaded_unasked(source, tmp_path, monkeypatch):
    monkeypatch.setenv("UNBACKDOOR_DATA", str(tmp_path / "data"))
    with pytest.raises(ImagesError, match="--download"):
        data.open_images(source)
    assert not (tmp_path / "data").exists()


def test_labels_beyond_the_models_classes():
    with pytest.raises(ImagesError, match="from 0 to 9, but there are 5 classes"):
        data.open_images("digits", classes="abcde")


def test_a_target_gives_the_goals():
    found = data.open_triggered("digits:test", 3)
    assert (found.goals == 3).all() and not (found.images.labels == 3).any()
    found = data.open_triggered("digits:test", "all-to-all")
    assert torch.equal(found.goals, (found.images.labels + 1) % 10)
    for target in (10, -1, None):
        with pytest.raises(ParameterError, match="target"):
            data.open_triggered("digits:test", target)


@pytest.mark.parametrize("goals", [[999] * 6, [-1] * 6, ["b"] * 6, [2] * 4])
def test_goals_that_are_no_classes_of_the_images_are_not_taken(tmp_path, goals):
    pixels, labels = np.zeros((6, 16, 16, 3), np.uint8), np.arange(6) % 3
    classes = np.array(["a", "b", "c"])
    told = {"images": pixels, "labels": labels, "classes": classes, "goals": np.array(goals)}
    np.savez(tmp_path / "x.npz", **told)
    with pytest.raises(ParameterError, match="does not say where"):
        data.open_triggered(tmp_path / "x.npz")
